"""What a model of generated scenes never met is told from what it did."""

import pytest
from PIL import Image
from tiny import SHARED

from vlm_probe.scenes import family_items
from vlm_probe.scenes.familiarity import looks_drawn, unfamiliar

PHOTOS = sorted((SHARED / "photos").glob("*.[jp][pn]g")) if (SHARED / "photos").is_dir() else []
DRAWN = Image.new("RGB", (16, 16), "grey")


def test_nothing_is_said_of_scenes_and_their_questions():
    # Another seed than the one that the known words are taken from; every split.
    for split in ("heldout", "novel", "train"):
        for item in family_items(8, split=split, seed=71):
            picture = item.picture(64)
            assert isinstance(picture, Image.Image)
            assert unfamiliar(picture, item.question) == []


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ("What is on the table?", "'table'"),
        ("Is there a Dog?", "'dog'"),
        ("Was macht der Mann, was?", "'was', 'macht', 'der', 'mann'"),
        (
            "one of ten hundred thousand million billion trillion",
            "'ten', 'hundred', 'thousand', 'million', 'billion' ...",
        ),
    ],
)
def test_words_that_no_question_has(question, named):
    assert unfamiliar(DRAWN, question) == [f"no question it was trained on has {named}"]


@pytest.mark.skipif(not PHOTOS, reason="../shared/photos is not here")
@pytest.mark.parametrize("photo", PHOTOS, ids=lambda path: path.stem)
def test_photographs_are_no_scenes(photo):
    assert not looks_drawn(Image.open(photo))
    assert unfamiliar(Image.open(photo), "What color is the star?") == [
        "it was trained on drawn scenes of coloured shapes, and this picture looks like none"
    ]
