"""What tells one source of a blockwise job from another."""

from patchmorph.io.resumable import fingerprint


def test_a_chunk_written_anew_deep_in_a_zarr_is_another_source(tmp_path):
    chunk = tmp_path / "x.ome.zarr" / "0" / "c" / "0" / "0" / "0"
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(b"old")
    before = fingerprint(tmp_path / "x.ome.zarr")
    assert fingerprint(tmp_path / "x.ome.zarr") == before
    chunk.write_bytes(b"other")
    assert fingerprint(tmp_path / "x.ome.zarr") != before
