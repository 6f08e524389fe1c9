"""The inspector in a real browser: JupyterLab on notebook 04, Run All, and clicks. Skipped without Chromium."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.notebooks.conftest import NOTEBOOKS, read

pytestmark = [pytest.mark.slow, pytest.mark.browser]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
WAIT = 180_000  # milliseconds, for a machine that builds every stage first
# a catalogue whose titles try to run a script, shown by the same inspector
NASTY = """
import numpy as np, pandas as pd
from musicrec_kit.data import Dataset, ImageStore
from musicrec_kit.ids import SemanticIds
bad = "<script>window.bad = 1</script><img src=x onerror='window.bad = 1'>"
items = pd.DataFrame({"item": range(3), "raw_id": list("abc"), "title": bad, "description": bad, "brand": bad})
items = items.assign(categories=[[bad]] * 3, image=None)
rows = pd.DataFrame([(0, i, None, i, "train") for i in range(3)], columns=["user", "item", "time", "position", "split"])
toy = Dataset("toy", rows, items, {"users": 1, "images": {}}, ImageStore(None))
codes = np.zeros((3, 2), np.int32)
ids = SemanticIds({"text": codes}, {"text": codes[:, 0]}, {"text": (("text", 2),)}, {"text": (4, 4)})
nasty = CodebookInspector(toy, ids)
display(nasty.sheet(), nasty)
print("all cells done")
"""


@pytest.fixture
def lab(tmp_path: Path, home: dict[str, str]) -> Iterator[str]:
    """Serve a copy of the notebook in JupyterLab and give its address."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium, to click through the inspector")
    (source,) = [path for path in NOTEBOOKS if path.stem == "04_codebook_usage_and_ami"]
    notebook = read(source)
    notebook.cells.append(nbformat.v4.new_code_cell(NASTY))
    nbformat.write(notebook, tmp_path / "inspect.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", f"--notebook-dir={tmp_path}"]
    command += ["--IdentityProvider.token=test", "--ServerApp.allow_root=True", "--ServerApp.port_retries=0"]
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env={**home, "JUPYTER_CONFIG_DIR": str(tmp_path)}, stdout=log, stderr=log)
        try:
            _wait_for(f"http://127.0.0.1:{port}/api/status?token=test", server)
            yield f"http://127.0.0.1:{port}/lab/tree/inspect.ipynb?token=test&reset"
        finally:
            server.terminate()
            server.wait(30)


def _wait_for(address: str, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(240):
        assert server.poll() is None, "JupyterLab ended"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("JupyterLab did not answer")


def test_clicking_through_the_inspector(lab: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 1400})
        page.set_default_timeout(WAIT)
        page.goto(lab)
        try:
            _run_all(page)
        finally:
            _shoot(page, "notebook.png")
        panel = page.locator(".musicrec-inspector").first
        panel.scroll_into_view_if_needed()
        _click_through(page, panel)
        page.locator(".musicrec-inspector").nth(1).get_by_text("window.bad = 1").first.wait_for()
        _shoot(panel, "inspector.png")
        assert page.evaluate("window.bad === undefined"), "a title ran a script"
        browser.close()


def _shoot(what: Any, name: str) -> None:
    """Write a picture of a page or a part of it, for people, where MUSICREC_SHOTS names a folder."""
    if "MUSICREC_SHOTS" in os.environ:
        what.screenshot(path=Path(os.environ["MUSICREC_SHOTS"]) / name)


def _run_all(page: Any) -> None:
    """Run all cells and wait for the last one's words."""
    page.locator(".jp-Notebook").wait_for()
    page.get_by_text("| Idle").first.wait_for()  # the status bar: the notebook has its kernel
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
    page.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]")).first.wait_for()
    page.locator(".jp-OutputArea-output pre", has_text="all cells done").wait_for()


def _click_through(page: Any, panel: Any) -> None:
    """View, level, code, down, up, an item, a neighbour: each click must change what is shown."""
    path = panel.locator(".widget-html-content").filter(has_text="of the catalogue").first
    before = path.inner_text()
    panel.locator("button", has_text="image").first.click()
    page.wait_for_function("([node, old]) => node.innerText !== old", arg=[path.element_handle(), before])
    assert "<S1." in path.inner_text()
    panel.locator("button", has_text="3").first.click()
    panel.get_by_text("any").first.wait_for()
    assert "<A." in path.inner_text()
    panel.locator("button", has_text="1").first.click()
    page.wait_for_function("node => node.innerText.includes('<S1.')", arg=path.element_handle())
    panel.locator("select").last.select_option(index=0)
    page.wait_for_function("node => node.innerText.includes('<S2.')", arg=path.element_handle())
    panel.locator("button", has_text="one level up").click()
    page.wait_for_function("node => !node.innerText.includes('<S2.')", arg=path.element_handle())
    about = panel.locator(".widget-html-content").filter(has_text="text").last
    first = panel.locator(".widget-box .widget-vbox button:visible").nth(8)
    title = first.get_attribute("title")
    first.click()
    panel.locator("div", has_text=title).last.wait_for()
    assert panel.get_by_text("by co-purchase").is_visible() and panel.get_by_text("by image ID").is_visible()
    assert about.is_visible()
