"""What prints: run folders -> tables, figures, page. `python -m report runs/` makes it anew; no torch."""
