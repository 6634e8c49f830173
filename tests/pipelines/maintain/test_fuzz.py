"""Images and tars that someone has been at: no crash, no hang, and each row is intact or has a reason."""

from support.fuzzing import fuzz


def test_mutated_images_and_tars_are_intact_or_have_a_reason(tmp_path):
    said = fuzz(tmp_path, images=150, tars=60)
    assert (said["wrong"], said["problems"]) == ([], [])
    assert said["rows"] > 300 and said["reasons"].keys() > {"kept", "unreadable", "truncated", "cut_tar"}
