"""A headless Chromium for tests of pages, driven by Playwright; Debian's package, no download."""

import contextlib
import shutil

import pytest

_NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')


@contextlib.contextmanager
def open_page(width=1280, height=900):
  """Yields a Playwright page of a new browser, whose errors fail the test at the end.

  Skips the test, with the reason, where Playwright or Chromium is not installed.

  Args:
    width, height: size of the window, in CSS pixels.
  """
  playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
  program = next(filter(None, map(shutil.which, _NAMES)), None)
  if program is None:
    pytest.skip('no Chromium is installed (Debian: apt-get install chromium)')
  with playwright.sync_playwright() as driver:
    # Chromium's sandbox does not start for root, as in most containers.
    browser = driver.chromium.launch(executable_path=program, args=['--no-sandbox'])
    try:
      page = browser.new_page(viewport={'width': width, 'height': height})
      errors = []
      page.on('pageerror', lambda error: errors.append(str(error)))
      yield page
      assert not errors, errors
    finally:
      browser.close()
