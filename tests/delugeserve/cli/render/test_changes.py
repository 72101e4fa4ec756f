"""What an export says about the version that it replaces, and about ``config.pbtxt``."""

import json
from types import SimpleNamespace

from delugeserve.artifacts.changes import Change, Changes, ClassChanges
from delugeserve.artifacts.config_merge import ConfigMerge, KeptSetting
from delugeserve.artifacts.config_rules import ReplacedSetting
from delugeserve.cli.render.changes import describe_changes, print_changes, print_publication

CHANGES = Changes(
    2,
    ClassChanges(added=("rose", "[tulip]"), removed=tuple("abcdefg")),
    {
        "precision": Change("fp32", "bf16"),
        "mean": Change((0.49139, 0.48, 0.44), (0.5, 0.5, 0.5)),
        "top1_error": Change(9.5, 8.456),
        "bytes": Change(1_960_000, 2_000_000),
        "trained": Change(False, True),
        "latency_ms_batch_8": Change(2.0, 1.0),
    },
)


def test_what_changes_is_a_table(capsys):
    print_changes(CHANGES)
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert lines[0].split() == ["changed", "version", "2", "now"]
    found = {row[0]: row[1:] for row in rows if len(row) == 3}
    assert "8.46" in " ".join(found.get("top-1 error in training (%)", lines))
    text = "\n".join(lines)
    for part in ("fp32", "bf16", "0.4914, 0.48, 0.44", "9.50", "2.0", "no", "yes"):
        assert part in text
    assert "latency, batch 8 (ms)" in text
    assert lines[-1] == (
        "classes: 2 added ('rose', '[tulip]'), 7 removed ('a', 'b', 'c', 'd', 'e' and 2 more)"
    )


def test_nothing_is_printed_where_nothing_changes(capsys):
    print_changes(Changes(1, ClassChanges(), {}))
    print_changes(Changes(1, None, {}))
    assert capsys.readouterr().out == ""


def test_as_json():
    values = json.loads(json.dumps(describe_changes(CHANGES)))
    assert values["version"] == 2
    assert values["classes"]["added"] == ["rose", "[tulip]"]
    assert values["facts"]["precision"] == {"before": "fp32", "now": "bf16"}
    assert describe_changes(None) is None


def test_kept_and_replaced_settings(capsys):
    config = ConfigMerge(
        "",
        kept=(
            KeptSetting("instance_group", "{ count: 2 }"),
            KeptSetting('model_warmup["batch of 1"]', ""),
            KeptSetting("max_batch_size", "4"),
        ),
        replaced=(
            ReplacedSetting("max_batch_size", "99", "8", "the artefact was verified up to 8"),
            ReplacedSetting('input["x"]', "", "{ }", "the artefact has this input"),
            ReplacedSetting('output["y"]', "{ }", "", "the artefact has none"),
        ),
        lost=("# mine",),
    )
    print_publication(SimpleNamespace(changes=None, config=config, saved_config="net/old"))
    out, err = capsys.readouterr()
    kept = "config.pbtxt, kept as you wrote it: "
    assert out.splitlines() == [
        f"{kept}instance_group {{ count: 2 }}",
        f'{kept}no model_warmup["batch of 1"]',
        f"{kept}max_batch_size: 4",
    ]
    assert "max_batch_size was 99 and is now 8: the artefact was verified up to 8." in err
    assert 'input["x"] was left out and is now { }' in err
    assert 'output["y"] was { } and was removed' in err
    assert "net/old" in err
