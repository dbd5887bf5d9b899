// Starts and stops the demo for the browser tests: the real programs, on addresses of their own.
//
// Must stay true: whatever a test does, the demo is ended; the demo itself ends all its nodes.

import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';

const READY_MS_MAX = 180_000;
const STOP_MS_MAX = 20_000;
const POLL_MS = 100;

// Starts a demo and gives what it says of itself once its pages are served.
export async function startDemo({ program, dir, pages, options = [] }) {
  mkdirSync(dir, { recursive: true });
  const facts = path.join(dir, 'demo.json');
  rmSync(facts, { force: true });
  const log = [];
  const child = spawn(program, ['demo', '--dir', dir, '--pages', pages, '--pages-port', '0', ...options],
    { stdio: ['ignore', 'pipe', 'pipe'] });
  let ended = null;
  const end = new Promise((resolve) => child.on('exit', (code, signal) => {
    ended = `code ${code} signal ${signal}`;
    resolve();
  }));
  child.on('error', (error) => { ended = error.message; });
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8');
    stream.on('data', (text) => log.push(text));
  }
  const deadline = Date.now() + READY_MS_MAX;
  while (!existsSync(facts)) {
    if (ended !== null) throw new Error(`the demo ended (${ended}) before it was ready:\n${log.join('')}`);
    if (Date.now() > deadline) {
      child.kill('SIGTERM');
      throw new Error(`the demo was not ready within ${READY_MS_MAX} ms:\n${log.join('')}`);
    }
    await new Promise((r) => setTimeout(r, POLL_MS));
  }
  const read = () => JSON.parse(readFileSync(facts, 'utf8'));
  return {
    facts: read(),
    read,
    log: () => log.join(''),
    // Ends the demo as Ctrl-C does, and tells which of its nodes are still there afterwards: none may be.
    async stop() {
      const pids = Object.values(existsSync(facts) ? read().nodes : {}).map((n) => n.pid).filter(Boolean);
      if (ended === null) child.kill('SIGINT');
      const late = setTimeout(() => child.kill('SIGKILL'), STOP_MS_MAX);
      await end;
      clearTimeout(late);
      return { ended, left: pids.filter(alive) };
    },
  };
}

function alive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
