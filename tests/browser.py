"""Pages in a real browser: Debian's chromium, headless, driven by selenium."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

BINARIES = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
NEEDED = pytest.mark.skipif(not all(BINARIES.values()), reason="needs Debian's chromium and chromium-driver")


class Browser:
    """A page as a reader sees it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, path: Path, width: int = 1200, phone: bool = False, dark: bool = False) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": phone}
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": scheme})
        self.logs()
        self.driver.get("about:blank")
        self.driver.get(path.as_uri())

    def js(self, code: str, *arguments):
        return self.driver.execute_script(code, *arguments)

    def find(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def wait(self, condition):
        """What `condition` comes to, once it is true."""
        deadline = time.monotonic() + 10
        while not (value := condition()):
            assert time.monotonic() < deadline, "the page did not come to it"
            time.sleep(0.02)
        return value

    def logs(self) -> tuple[list[str], list[str]]:
        """Messages on the console, and what the page has asked for from anywhere, since the last call."""
        console = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return console, [url for url in asked if not url.startswith(("about:", "data:", "blob:"))]


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = BINARIES["chromium"]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(BINARIES["chromedriver"]))
    try:
        yield driver
    finally:
        driver.quit()
