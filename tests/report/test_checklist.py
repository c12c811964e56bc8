"""checklist.py: an item is answered by the runs or left to the author.
python -m pytest tests/report/test_checklist.py"""

from awkward import ANALYSES, every
from factory import make_analysis, make_experiment

from report import checklist


def answers(*experiments):
    return {item.subject: item for item in checklist.items(make_analysis(experiments))}


@every
def test_the_checklist_is_answered_or_left_to_the_author(name):
    items = checklist.items(ANALYSES[name]())
    by = {item.subject: item for item in items}
    assert len(items) == len(by) == 44
    assert all(item.who in ("answered", "author") and (item.answer or item.who == "author") for item in items)
    assert by["Data: de-identification"].who == by["Other information: funding"].who == "author"
    if ANALYSES[name]().experiments:
        disjoint = by["Data partitions: level at which they are disjoint"]
        assert disjoint.answer.endswith("Patient; patients in two splits: 0.")
    assert by["Data: sources"].who == ("answered" if name == "hostile" else "author")


def test_what_holds_of_all_is_said_once_and_the_rest_of_each():
    by = answers(make_experiment("a"), make_experiment("b", "vit_b_16"))
    assert by["Evaluation: metrics"].answer.startswith("Primary: balanced accuracy; secondary: accuracy; also")
    architecture = by["Model: architecture"].answer
    assert architecture.startswith("a, resnet18: The backbone") and " b, vit_b_16: The backbone" in architecture


def test_answers_of_the_runs():
    by = answers(make_experiment(folds=[0, 1], gradcam=True, task="multilabel", classes=["x", "y"]))
    assert by["Data: missing data"].answer == "Unknown labels were masked out of the loss and of the metrics."
    assert by["Evaluation: internal testing"].answer == (
        "On 125 test images of 40 patients over 2 folds, scored once after selection."
    )
    repeated = "Training was repeated over 3 seeds and 2 folds; the spread is reported."
    assert by["Evaluation: robustness or sensitivity analysis"].answer == repeated
    assert by["Evaluation: explainability"].answer.startswith("Grad-CAM")
    failures = by["Results: failure analysis"].answer
    assert failures == "The report shows the 8 hardest test images. [author: their meaning in the clinic]"
    included = by["Results, data: patients and examinations included and excluded"].answer
    assert included.startswith("train 423 images, val 73 images, test 125 images. [author:")
    assert by["Other information: availability of software, models and data"].answer.startswith(
        "Software: ftcompare 0.1. [author:"
    )


def test_a_split_by_image_says_what_it_cannot_tell():
    by = answers(make_experiment(group_kind="image"))
    disjoint = by["Data partitions: level at which they are disjoint"].answer
    assert disjoint.startswith("Image: no patient ids were given, so images of one patient may")
