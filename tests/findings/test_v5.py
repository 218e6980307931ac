"""V5: a smaller vocabulary is chosen from other text, and is as good only where enough answers say so."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from planting import MOST, decided, verdicts
from scipy.stats import binom
from tiny import tiny_language, tiny_vlm

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import PairedMean, Verdict, judge, judge_all
from vlm_probe.findings import run
from vlm_probe.findings.v5_smaller import FINDING, SHARES, smaller_vocabulary
from vlm_probe.items import Item
from vlm_probe.scenes import Scene, family_items, scene_items
from vlm_probe.vocabulary import apart, training_items

ALL = FINDING.claims[0]
TESTED = [claim.id for claim in FINDING.claims if not claim.descriptive]


def answered(rng, *, images=ALL.least, each=2, again=0.5, right=0.8, lost=0.0, won=0.0):
    """Right and wrong answers, alike within an image; some are given anew by the smaller model, some lost, some won."""
    n = images * each
    ease = np.repeat(rng.normal(size=images), each)

    def answer():
        return ease + rng.normal(size=n) < np.sqrt(2) * np.quantile(rng.normal(size=9999), right)

    first, columns = answer(), {}
    for share in SHARES:
        said = np.where(rng.random(n) < again, answer(), first)
        said = said & (rng.random(n) >= lost) | (rng.random(n) < won)
        columns |= {f"right_{share}": said.astype(int)}
    image = [f"image {i // each}" for i in range(n)]
    about = {"id": [f"item {i}" for i in range(n)], "image": image, "cluster": image, "kind": "color"}
    sizes = pd.DataFrame({"share": [np.nan, *SHARES], "rows_kept": 0.5, "bytes_kept": 0.5})
    return {"model": {"items": pd.DataFrame({**about, "right": first.astype(int), **columns}), "sizes": sizes}}


def test_of_answers_given_alike_nothing_is_decided():
    shares = decided(FINDING, answered)
    assert shares == {name: pytest.approx(0, abs=MOST) for name in TESTED}


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ({"images": 60, "lost": 0.5}, Verdict.SUPPORTED),
        ({"images": 60, "won": 0.7, "right": 0.4}, Verdict.CONTRADICTED),
        ({"images": 600, "again": 0.0, "lost": 0.005}, Verdict.EQUIVALENT),
    ],
)
def test_planted_losses_are_found_and_gains_contradict_them(planted, expected):
    found = verdicts(FINDING, lambda rng: answered(rng, **planted))
    assert {name: found[name] for name in TESTED} == dict.fromkeys(TESTED, expected)


def lossy(n, lost):
    """The tables of n images, of which some lose their right answer."""
    ids = np.arange(n)
    after = (ids >= lost).astype(int)
    return {"items": pd.DataFrame({"id": ids, "cluster": ids, "right": 1, "right_100": after}), "sizes": pd.DataFrame()}


@pytest.mark.parametrize("n", [20, 100, 139, 219, 295, 368, 600, 1500])
def test_what_loses_two_points_is_hardly_ever_called_as_good(n):
    """Exactly: of how many lost answers it would still be called so, and how often no more are lost.

    It used to have an interval without width where no answer changed: of 20 images two thirds of such models passed.
    """
    fits = [lost for lost in range(n // 50 + 2) if judge(ALL, lossy(n, lost)).verdict == Verdict.EQUIVALENT]
    assert binom.cdf(max(fits, default=-1), n, ALL.margin) <= MOST
    assert (not fits) == (n < 139)
    assert isinstance(ALL.statistic, PairedMean)
    old = replace(ALL, statistic=replace(ALL.statistic, right_or_wrong=False))
    assert judge(old, lossy(n, 0)).verdict == Verdict.EQUIVALENT
    row = judge(ALL, lossy(n, 0))
    assert row.low < 0 < row.high


def filed(items, folder) -> list[Item]:
    """Items about scenes as items about image files."""
    folder.mkdir(exist_ok=True)
    found = []
    for item in items:
        file = folder / f"{item.image}.png"
        picture = item.picture(64)
        picture.save(file)
        found.append(replace(item, source=file))
    return found


def test_rows_are_chosen_from_text_that_no_asked_item_is_part_of(tmp_path, replica, monkeypatch):
    """They used to be chosen from the answers asked for, all of which could be spelled then."""
    drawn = [*scene_items(3, seed=8), *family_items(4, families=("pope", "mmvp"), seed=8)]
    asked, text = apart(drawn, n=20)
    assert asked == drawn
    assert {item.family for item in text} == {"scenes", "pope", "mmvp"}
    assert not {item.image_seed for item in text} & {item.image_seed for item in drawn}
    assert {item.source.split for item in text if isinstance(item.source, Scene)} == {"train"}
    assert training_items(drawn, n=5) == training_items(drawn, n=5)

    files = filed(drawn, tmp_path / "images")
    asked, text = apart(files)
    assert {item.id for item in asked} | {item.id for item in text} == {item.id for item in files}
    for key in ("image", "group"):  # twins stay together
        assert not {getattr(item, key) for item in asked} & {getattr(item, key) for item in text}
    assert apart(files, seed=1) != (asked, text)
    monkeypatch.setattr("vlm_probe.findings.v5_smaller.SHARES", (100,))
    # A word of the asked items' answers alone has no row any more, and what asks for it is wrong.
    unlike = [replace(item, answer="red" if item in text else "gazo") for item in files]
    tables = smaller_vocabulary(replica, unlike)
    assert tables["items"]["id"].tolist() == [item.id for item in files if item in asked]
    assert tables["items"]["readable_100"].tolist() == [0] * len(asked)
    assert tables["items"]["right_100"].tolist() == [0] * len(asked)
    # Text of the user's own says otherwise, and then all are asked.
    texts = [f"{item.question} gazo red" for item in files]
    own = smaller_vocabulary(replica, unlike, texts=texts)["items"]
    assert own["readable_100"].tolist() == [1] * len(files)


def test_on_a_replica_the_rows_of_training_text_answer_as_all_do(replica):
    items = [*scene_items(22), *family_items(2, families=("pope",))]
    result = run(["V5"], [replica], items)
    tables = result.measured["V5"]["replica/default"]
    columns = {f"{what}_{share}" for what in ("right", "same", "readable") for share in SHARES}
    assert set(tables["items"]) == {"id", "image", "cluster", "kind", "right", *columns}
    answers, sizes = tables["items"], tables["sizes"].set_index("share")
    assert answers["readable_100"].tolist() == [1] * 24
    assert answers["same_100"].tolist() == [1] * 24
    assert answers["right_25"].to_numpy().mean() < 0.5 < answers["right"].to_numpy().mean()
    assert sizes["rows"].is_monotonic_decreasing
    saved = (704 - sizes["rows"]) * replica.text_config.hidden_size
    assert (sizes["parameters"] == sizes["parameters"].iloc[0] - saved).all()
    evidence = result.evidence.set_index("claim")
    # No answer of 23 images changed, of which some would of more images: that is no proof that none does.
    assert evidence.loc["worse_100", ["n", "clusters", "difference"]].tolist() == [24, 23, 0]
    assert evidence.loc["worse_100", "verdict"] == Verdict.UNDECIDED
    assert evidence.loc["worse_25", "verdict"] == Verdict.SUPPORTED
    assert evidence.loc["rows", "value"] == sizes["rows_kept"].iloc[1]
    # Of its untrained copy, which answers nothing right, nothing is lost.
    bare = judge_all(FINDING.claims, {"bare": result.untrained["V5"]["replica/default"]})
    assert {row.verdict for row in bare} == {Verdict.UNDECIDED, Verdict.DESCRIPTIVE}
    shown = result.shown(FINDING)
    assert shown.tables["sizes"]["accuracy"].iloc[0] == pytest.approx(answers["right"].mean())
    assert shown.summary[0].startswith("replica/default answers ")


def test_what_it_cannot_be_measured_on_is_refused(tmp_path):
    with pytest.raises(VlmProbeError) as caught:
        smaller_vocabulary(tiny_language("llama"), list(scene_items(2)))
    assert str(caught.value) == ("model is a language model alone; the items ask about images, which take an encoder")
    one = filed(list(scene_items(1)), tmp_path / "one")
    with pytest.raises(VlmProbeError) as caught:
        smaller_vocabulary(tiny_vlm("clip", "llama"), one)
    assert str(caught.value) == (
        "the 1 items are about too few images for half of them to say which rows stay: give items of two images or "
        "more, or text, smaller_vocabulary(model, items, texts=texts)"
    )
    assert FINDING.picks([replace(one[0], answer=" ")]) == []
