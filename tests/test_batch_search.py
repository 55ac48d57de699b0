"""`npvgg search`: the nearest photos of a batch run."""

import json
from fractions import Fraction

import numpy as np
import pytest
from batches import planned, rows_of, save_photos

from npvgg.batch.search import embedded, nearest
from npvgg.batch.shards import run_shard
from npvgg.cli.main import main
from npvgg.errors import ArgumentError, ImageError

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'npvgg[batch]'")


@pytest.fixture
def photos(tmp_path, rng):
    folder = save_photos(tmp_path / "photos", 9, rng)
    (folder / "004.png").write_bytes(b"no photo")
    (folder / "008.png").write_bytes((folder / "002.png").read_bytes())
    return folder


@pytest.fixture
def run(tmp_path, photos):
    run, predictor = planned(tmp_path / "run", photos)
    for number in range(run.shards):
        run_shard(run, number, predictor)
    return run


def cosine(a, b):
    """The exact dot product of two vectors, over their lengths."""
    a, b = [Fraction(x) for x in a], [Fraction(x) for x in b]
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return float(dot) / float(sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


def test_the_nearest_are_found_in_all_shards(photos, run):
    query = embedded(run, photos / "002.png")
    rows = [row for row in rows_of(run) if row["status"] == "ok"]
    scores = {row["id"]: cosine(row["embedding"], query.tolist()) for row in rows}
    hits = nearest(run, query, 20)
    assert [hit.id for hit in hits] == sorted(scores, key=lambda id: (-round(scores[id], 12), id))
    np.testing.assert_allclose([hit.score for hit in hits], [scores[hit.id] for hit in hits], 1e-12)
    assert [hit.id for hit in hits[:2]] == [2, 8]  # the photo itself, and its copy
    assert nearest(run, query, 3) == hits[:3]


def test_a_run_without_embeddings_and_vectors_that_do_not_fit(tmp_path, photos, run):
    with pytest.raises(ArgumentError, match=r"expected \(256,\), got \(3,\)"):
        nearest(run, np.ones(3))
    assert {hit.score for hit in nearest(run, np.zeros(256))} == {0.0}
    with pytest.raises(ImageError, match=r"004\.png"):
        embedded(run, photos / "004.png")
    without, _ = planned(tmp_path / "other", photos, spec={"want": "topk"})
    with pytest.raises(ArgumentError, match="expected one with embeddings"):
        embedded(without, photos / "002.png")


def test_a_shard_whose_embeddings_are_single_numbers_is_damaged(photos, run):
    import pyarrow as pa
    import pyarrow.parquet as pq

    query, rows = embedded(run, photos / "002.png"), pq.read_table(run.shard(0))
    place = rows.schema.get_field_index("embedding")
    numbers = pa.array([1.0] * rows.num_rows, pa.float32())  # "float" stands in "list<…: float>"
    pq.write_table(rows.set_column(place, "embedding", numbers), run.shard(0))
    with pytest.raises(ArgumentError, match="expected a column embedding of a run"):
        nearest(run, query)


def test_the_command(tmp_path, capfd, photos, run):
    page = tmp_path / "page.html"
    command = ["search", str(run.folder), str(photos / "002.png"), "-k", "2"]
    assert main([*command, "--format", "json", "--html", str(page)]) == 0
    found = json.loads(capfd.readouterr().out)
    assert [hit["path"] for hit in found] == [str(photos / "002.png"), str(photos / "008.png")]
    assert page.read_text().count('<img src="file:///') == 3
    assert main([*command, "--html", str(page)]) == 2
    assert "exists; --force replaces it" in capfd.readouterr().err
    assert main(command) == 0
    out, _ = capfd.readouterr()
    assert out.splitlines()[1].split() == [f"{found[1]['score']:.6f}", str(photos / "008.png")]
    run.shard(1).unlink()
    assert main(command) == 0
    assert "1 of 3 shards are not looked at" in capfd.readouterr().err
