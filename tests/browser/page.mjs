// Chromium and the viewer page, as a test uses them.

import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { chromium } from 'playwright-core';

const FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
  '--autoplay-policy=no-user-gesture-required'];

export async function launch(executablePath) {
  return chromium.launch({ executablePath, args: FLAGS });
}

// Opens a page and keeps what its console complains of.
export async function open(browser, url, viewport = { width: 1280, height: 860 }) {
  const context = await browser.newContext({ viewport });
  const page = await context.newPage();
  const complaints = [];
  page.on('console', (m) => { if (m.type() === 'error') complaints.push(m.text()); });
  page.on('pageerror', (e) => complaints.push(`page error: ${e.message}`));
  await page.goto(url, { waitUntil: 'domcontentloaded' });
  return { page, complaints, close: () => context.close() };
}

// What the viewer page knows of itself.
export const state = (page) => page.evaluate(() => window.tidegate);

// Waits until a condition on the viewer's state holds; an error of the player ends the wait at once.
export async function until(page, what, condition, limitMs) {
  try {
    await page.waitForFunction(
      ([source]) => window.tidegate?.error || new Function('t', 'video', `return ${source}`)(
        window.tidegate ?? { segments: [], events: [] }, document.querySelector('video')),
      [condition], { timeout: limitMs, polling: 100 });
  } catch (error) {
    throw new Error(`${what}: not within ${limitMs} ms (${error.message.split('\n')[0]}); the page says ` +
      JSON.stringify(await state(page).catch(() => null)));
  }
  const now = await state(page);
  if (now?.error) throw new Error(`${what}: the player failed: ${now.error}; events ${JSON.stringify(now.events)}`);
  return now;
}

export async function keepPicture(page, folder, name) {
  mkdirSync(folder, { recursive: true });
  await page.screenshot({ path: path.join(folder, `${name}.png`), fullPage: true });
}
