"""What prints: run folders -> tables, figures, page. `python -m report runs/` makes the report anew, without torch."""
