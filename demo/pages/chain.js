// The chain page: who feeds whom, as a picture, with numbers that are read once a second.
//
// The picture is laid out twice from one list of nodes: left to right on wide screens, top down on phones.

const POLL_MS = 1000;
const BOX = { w: 206, h: 92 };
const LAYERS = ['edge', 'parent', 'origin'];
const figure = document.getElementById('picture');
let previous = null;
let drawn = '';

function bytes(n) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) { n /= 1000; i += 1; }
  return `${i ? n.toFixed(1) : n} ${units[i]}`;
}

function percent(c) {
  const asked = c.hits_total + c.misses_total;
  return asked ? `${(100 * c.hits_total / asked).toFixed(1)} %` : '-';
}

function svg(name, attributes = {}, text) {
  const e = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  if (text !== undefined) e.textContent = text;
  return e;
}

// Places of all boxes: columns of layers (wide) or rows of layers (tall, two boxes a row).
function layout(nodes, wide) {
  const places = new Map();
  const gap = 22;
  const layers = [['viewers'], ...LAYERS.map((l) => nodes.filter((n) => n.tier === l).map((n) => n.id))];
  const control = nodes.filter((n) => n.tier === 'router' || n.tier === 'monitor').map((n) => n.id);
  if (wide) {
    const tallest = Math.max(...layers.map((l) => l.length));
    const height = tallest * (BOX.h + gap) + BOX.h + 2 * gap;
    const step = BOX.w + 84;
    layers.forEach((layer, column) => {
      const used = layer.length * (BOX.h + gap) - gap;
      const top = BOX.h + 2 * gap + (height - BOX.h - 2 * gap - gap - used) / 2;
      layer.forEach((id, i) => places.set(id, { x: 10 + column * step, y: top + i * (BOX.h + gap) }));
    });
    control.reverse().forEach((id, i) => places.set(id, { x: 10 + (i + 0.55) * step, y: 8 }));
    return { places, w: 20 + 3 * step + BOX.w, h: height };
  }
  let y = 8;
  const row = (ids) => {
    ids.forEach((id, i) => places.set(id, { x: 10 + i * (BOX.w + gap) + (ids.length === 1 ? (BOX.w + gap) / 2 : 0), y }));
    y += BOX.h + gap;
  };
  row(control);
  for (const layer of layers) {
    y += 14;
    for (let i = 0; i < layer.length; i += 2) row(layer.slice(i, i + 2));
  }
  return { places, w: 20 + 2 * BOX.w + gap, h: y };
}

// Which node is fed by which: viewers by edges, edges by parents, parents by origins.
function links(nodes) {
  const of = (tier) => nodes.filter((n) => n.tier === tier).map((n) => n.id);
  const pairs = of('edge').map((e) => ['viewers', e, 'flow']);
  for (const e of of('edge')) for (const p of of('parent')) pairs.push([e, p, 'flow']);
  for (const p of of('parent')) for (const o of of('origin')) pairs.push([p, o, 'flow']);
  for (const r of of('router')) pairs.push(['viewers', r, 'order']);
  return pairs;
}

function curve(a, b, wide, kind) {
  if (wide && kind === 'order') {
    const x1 = a.x + BOX.w / 2, x2 = b.x, y2 = b.y + BOX.h / 2;
    return `M${x1} ${a.y} C${x1} ${y2 + 40} ${x1} ${y2} ${x2} ${y2}`;
  }
  if (wide && a.x !== b.x) {
    const [from, to] = a.x < b.x ? [a, b] : [b, a];
    const x1 = from.x + BOX.w, y1 = from.y + BOX.h / 2, x2 = to.x, y2 = to.y + BOX.h / 2;
    const mid = Math.max(30, (x2 - x1) / 2);
    return `M${x1} ${y1} C${x1 + mid} ${y1} ${x2 - mid} ${y2} ${x2} ${y2}`;
  }
  const [from, to] = a.y < b.y ? [a, b] : [b, a];
  const x1 = from.x + BOX.w / 2, y1 = from.y + BOX.h, x2 = to.x + BOX.w / 2, y2 = to.y;
  return `M${x1} ${y1} C${x1} ${y1 + 20} ${x2} ${y2 - 20} ${x2} ${y2}`;
}

function draw(nodes, wide) {
  const { places, w, h } = layout(nodes, wide);
  const picture = svg('svg', { viewBox: `0 0 ${w} ${h}`, role: 'img', 'aria-label': 'The chain from viewers to origin' });
  if (!wide) picture.style.maxWidth = '28rem';
  for (const [a, b, kind] of links(nodes)) {
    const line = svg('path', { d: curve(places.get(a), places.get(b), wide, kind), class: kind, 'data-link': `${a} ${b}` });
    line.style.strokeWidth = '1.5';
    picture.append(line);
  }
  for (const [id, { x, y }] of places) {
    const node = nodes.find((n) => n.id === id);
    const group = svg('g', { transform: `translate(${x} ${y})`, 'data-node': id });
    group.append(svg('rect', { class: 'box', width: BOX.w, height: BOX.h, rx: 9 }),
      svg('text', { x: 12, y: 22, class: 'title' }, id),
      svg('text', { x: 12, y: 40, class: 'soft', 'data-field': 'where' }, node?.address ?? ''),
      svg('text', { x: 12, y: 61, 'data-field': 'first' }),
      svg('text', { x: 12, y: 80, 'data-field': 'second' }));
    picture.append(group);
  }
  figure.replaceChildren(picture);
}

function set(id, field, text) {
  const e = figure.querySelector(`[data-node="${id}"] [data-field="${field}"]`);
  if (e && e.textContent !== text) e.textContent = text;
}

function thickness(bytesPerSecond) {
  return bytesPerSecond > 0 ? Math.min(14, 1.5 + Math.log10(1 + bytesPerSecond / 1000) * 2.4) : 1.5;
}

function update(chain) {
  const seconds = previous ? Math.max(1, chain.uptime_s - previous.uptime_s) : 1;
  const rate = (node, field) => {
    const before = previous?.nodes.find((n) => n.id === node.id);
    if (!node.counters || !before?.counters || before.pid !== node.pid) return 0;
    return Math.max(0, node.counters[field] - before.counters[field]) / seconds;
  };
  for (const node of chain.nodes) {
    const group = figure.querySelector(`[data-node="${node.id}"]`);
    group?.setAttribute('class', node.up ? 'up' : 'down');
    const pid = node.pid ? `, process ${node.pid}` : '';
    set(node.id, 'where', node.up ? `${node.address}${pid}` : (node.ended ?? 'does not answer'));
    const c = node.counters;
    if (c) {
      set(node.id, 'first', `${c.requests_total} requests` + (node.tier === 'origin' || percent(c) === '-' ? '' : `, ${percent(c)} hits`));
      set(node.id, 'second', `${bytes(c.bytes_sent_total)} sent, ${bytes(Math.round(rate(node, 'bytes_sent_total')))}/s`);
    } else if (node.tier === 'router' || node.tier === 'monitor') {
      set(node.id, 'first', node.up ? (node.tier === 'router' ? 'sends viewers to edges' : 'watches the fleet') : 'down');
      set(node.id, 'second', node.generation ? `snapshot generation ${node.generation}` : '');
    } else {
      set(node.id, 'first', 'down');
      set(node.id, 'second', '');
    }
  }
  const edges = chain.tiers.edge;
  set('viewers', 'where', `${edges.counters.connections_open} connections to edges`);
  set('viewers', 'first', `${edges.counters.requests_total} requests`);
  set('viewers', 'second', `${bytes(edges.counters.bytes_sent_total)} received`);
  for (const line of figure.querySelectorAll('path.flow')) {
    const [a, b] = line.dataset.link.split(' ');
    const taker = chain.nodes.find((n) => n.id === a);
    const giver = chain.nodes.find((n) => n.id === b);
    // What a cache fills comes from the tier behind it, shared over the givers that are sending.
    let flow = rate(giver, 'bytes_sent_total');
    if (taker) {
      const peers = chain.nodes.filter((n) => n.tier === giver.tier);
      const all = peers.reduce((sum, n) => sum + rate(n, 'bytes_sent_total'), 0);
      flow = all > 0 ? rate(taker, 'bytes_filled_total') * rate(giver, 'bytes_sent_total') / all : 0;
    }
    line.style.strokeWidth = thickness(flow);
  }
  tiers(chain);
  const down = chain.nodes.filter((n) => !n.up).map((n) => n.id);
  document.getElementById('state').textContent = down.length ? `Down: ${down.join(', ')}.` : 'All nodes are up.';
}

function tiers(chain) {
  const rows = LAYERS.map((word) => {
    const t = chain.tiers[word];
    const c = t.counters;
    const cache = word !== 'origin';
    const cells = [word, `${t.up}/${t.nodes}`, c.requests_total.toLocaleString('en'), cache ? percent(c) : '',
      bytes(c.bytes_sent_total), cache ? bytes(c.bytes_filled_total) : '', cache ? c.fills_total : '',
      cache ? c.collapsed_total : ''];
    const row = document.createElement('tr');
    row.dataset.tier = word;
    row.append(...cells.map((text, i) => {
      const cell = document.createElement('td');
      if (i) cell.className = 'n';
      cell.textContent = text;
      return cell;
    }));
    return row;
  });
  document.getElementById('tiers').replaceChildren(...rows);
}

async function poll() {
  try {
    const chain = await (await fetch('/api/chain')).json();
    if (chain.nodes.length) {
      const wide = figure.clientWidth > 640;
      const form = `${wide} ${chain.nodes.map((n) => n.id).join(' ')}`;
      if (form !== drawn) { draw(chain.nodes, wide); drawn = form; }
      update(chain);
      previous = chain;
      window.tidegateChain = chain;
    }
  } catch (error) {
    document.getElementById('state').textContent = `The demo does not answer: ${error.message}`;
  }
  setTimeout(poll, POLL_MS);
}
poll();
