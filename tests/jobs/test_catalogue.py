"""Every job type's form against the reference's catalogue (shared/reference/job_catalogue.json)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from reference_data import SHARED

from relion_py.jobs import registry
from relion_py.jobs.environment import SiteEnvironment
from relion_py.jobs.spec import JobSpec, Option

CATALOGUE = SHARED / "reference" / "job_catalogue.json"

pytestmark = pytest.mark.skipif(not CATALOGUE.exists(), reason="the reference's catalogue is not here")

# Defaults that name the reference's own site; ours are neutral, and filled from RELION_* variables.
SITE = {"qsubscript": "", "queuename": "", "fn_ctffind_exe": "ctffind", "fn_motioncor2_exe": "MotionCor2"}
SITE["fn_resmap"] = "ResMap"


def catalogue() -> list[dict[str, Any]]:
    return json.loads(CATALOGUE.read_text()) if CATALOGUE.exists() else []


def test_browser_order_and_names() -> None:
    ours = [
        (s.type_number, s.type_label, s.directory, s.browser_label, s.hidden_file) for s in registry.all_specs()[:22]
    ]
    names = ("type_number", "type_label", "directory", "browser_label", "hidden_file")
    assert ours == [tuple(entry[name] for name in names) for entry in catalogue()]


@pytest.mark.req("G6")
@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry["type_label"])
def test_tabs_and_rows(entry: dict[str, Any]) -> None:
    spec = registry.by_label(entry["type_label"])
    ours = [(t.name, list(t.options), [(list(r.options), r.label) for r in t.rows]) for t in spec.tabs]
    theirs = [(t["name"], t["options"], [(r["options"], r["label"]) for r in t.get("rows", [])]) for t in entry["tabs"]]
    assert ours == theirs
    assert [o.key for o in spec.hidden_options] == entry["not_on_a_tab"]


@pytest.mark.req("G6")
@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry["type_label"])
def test_options(entry: dict[str, Any]) -> None:
    spec = registry.by_label(entry["type_label"])
    assert set(spec.options) == set(entry["options"])
    for key, theirs in entry["options"].items():
        assert told(spec, spec.options[key]) == expected(key, theirs), key


def told(spec: JobSpec, option: Option) -> dict[str, Any]:
    return {
        "label": option.label,
        "kind": option.kind,
        "default": spec.defaults(SiteEnvironment())[option.key],
        "slider": (option.minimum, option.maximum, option.step),
        "choices": option.choices,
        "node_type": option.node_type,
        "pattern": option.pattern,
        "on_continue": option.on_continue,
    }


def expected(key: str, theirs: dict[str, Any]) -> dict[str, Any]:
    def known(name: str) -> str:
        return "" if theirs.get(name) in (None, "undefined") else theirs[name]

    return {
        "label": theirs["label"],
        "kind": theirs["kind"],
        "default": SITE.get(key, theirs["default"]),
        "slider": (theirs.get("min"), theirs.get("max"), theirs.get("step")),
        "choices": tuple(theirs["choices"]) if theirs["kind"] == "choice" else (),
        "node_type": theirs.get("node_type", ""),
        "pattern": known("pattern"),
        "on_continue": theirs["on_continue"],
    }


@pytest.mark.req("G6")
def test_every_option_has_help_and_none_names_a_site() -> None:
    for spec in registry.all_specs():
        for option in spec.options.values():
            assert len(option.help) > 15, (spec.type_label, option.key)
            assert "/public" not in option.default
