'use strict';
// The script of a report: sorts and filters tables, reads charts, shows images. No library.
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($('data').textContent);

  function make(name, properties = {}, ...children) {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  }

  // Tables ---------------------------------------------------------------------------------------

  function compare(a, b) {
    return typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b));
  }

  function cellOrder(cell) {
    const order = cell.dataset.order ?? cell.textContent.trim();
    return order !== '' && !Number.isNaN(Number(order)) ? Number(order) : order;
  }

  // Marks a title as the one sorted by; returns whether ascending. Numbers begin with the greatest.
  function turn(head, isNumber) {
    const before = head.getAttribute('aria-sort');
    const ascending = before === 'none' ? !isNumber : before === 'descending';
    for (const other of head.parentElement.children) other.setAttribute('aria-sort', 'none');
    head.setAttribute('aria-sort', ascending ? 'ascending' : 'descending');
    return ascending;
  }

  for (const table of document.querySelectorAll('table.sortable')) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector('button').addEventListener('click', () => {
      const rows = [...table.tBodies[0].rows].map((row) => [cellOrder(row.cells[column]), row]);
      const sign = turn(head, head.classList.contains('number')) ? 1 : -1;
      rows.sort((a, b) => sign * compare(a[0], b[0]));
      table.tBodies[0].append(...rows.map((pair) => pair[1]));
    }));
  }

  for (const input of document.querySelectorAll('[data-filters]')) {
    input.addEventListener('input', () => {
      const wanted = input.value.trim().toLowerCase();
      for (const row of $(input.dataset.filters).tBodies[0].rows) {
        const said = `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase();
        row.hidden = !said.includes(wanted);
      }
    });
  }

  // Charts ---------------------------------------------------------------------------------------

  for (const svg of document.querySelectorAll('svg[data-chart]')) {
    const chart = JSON.parse(svg.dataset.chart);
    const [left, right, first, last] = chart.x;
    const cursor = document.createElementNS('http://www.w3.org/2000/svg', 'line');
    cursor.setAttribute('class', 'cursor');
    const reading = make('div', { className: 'reading', hidden: true });
    svg.parentElement.append(reading);
    const steps = [...new Set(chart.series.flatMap((line) => line.points.map((p) => p[0])))];
    const nearest = (values, step, of) =>
      values.reduce((a, b) => (Math.abs(of(b) - step) < Math.abs(of(a) - step) ? b : a));
    svg.addEventListener('pointermove', (event) => {
      const box = svg.getBoundingClientRect();
      const scale = svg.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale;
      const step = nearest(steps, first + ((x - left) / (right - left)) * (last - first), (s) => s);
      const place = left + ((step - first) / (last - first)) * (right - left);
      for (const [name, value] of Object.entries({ x1: place, x2: place, y1: 30, y2: 232 })) {
        cursor.setAttribute(name, value);
      }
      svg.append(cursor);
      reading.replaceChildren(make('div', { textContent: `step ${step}` }));
      for (const line of chart.series) {
        const [at, value] = nearest(line.points, step, (p) => p[0]);
        const patch = make('b');
        patch.style.background = line.color;
        const where = at === step ? '' : ` (step ${at})`;
        reading.append(make('div', {}, patch, `${line.label} ${Number(value.toPrecision(4))}${where}`));
      }
      reading.hidden = false;
      const side = place / scale > box.width / 2;
      reading.style.left = side ? 'auto' : `${place / scale + 10}px`;
      reading.style.right = side ? `${box.width - place / scale + 10}px` : 'auto';
      reading.style.top = '34px';
    });
    svg.addEventListener('pointerleave', () => { reading.hidden = true; cursor.remove(); });
  }

  // Images ---------------------------------------------------------------------------------------

  if (!data.images.length) return;
  const several = data.runs.length > 1;
  const TITLES = { image: 'image', ground_truth: 'ground truth', prediction: 'prediction', errors: 'errors' };
  const CARDS = 12;
  const ROWS = 50;
  const row = (entry) => data.images[entry.image];
  const quality = (image, run = 0) => (image[3 + run] && image[3 + run][0] !== null ? image[3 + run][0] : null);
  const percent = (value) => (value === null ? '–' : value.toFixed(1));
  const signed = (value) => (value > 0 ? '+' : value < 0 ? '−' : '') + Math.abs(value).toFixed(1);
  const change = (image) => {
    const pair = [quality(image, 0), quality(image, 1)];
    return pair.includes(null) ? null : pair[1] - pair[0];
  };
  const urls = new Map();

  function url(content) {
    if (!urls.has(content)) {
      const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
      urls.set(content, URL.createObjectURL(new Blob([bytes], { type: 'image/webp' })));
    }
    return urls.get(content);
  }

  // The panels of an entry in the order shown: {name, title, map}.
  function panelsOf(entry) {
    const found = [];
    const shared = Object.assign({}, ...entry.panels.slice().reverse());
    if (shared.image) found.push({ title: TITLES.image, base: shared.image });
    if (!several) {
      for (const name of ['prediction', 'ground_truth', 'errors']) {
        if (shared[name]) found.push({ title: TITLES[name], base: shared.image, map: shared[name], errors: name === 'errors' });
      }
      return found;
    }
    if (shared.ground_truth) {
      found.push({ title: TITLES.ground_truth, base: shared.image, map: shared.ground_truth });
    }
    entry.panels.forEach((of, run) => {
      for (const name of ['prediction', 'errors']) {
        const title = `${TITLES[name]} ${data.runs[run]}`;
        if (of[name]) found.push({ title, base: shared.image, map: of[name], errors: name === 'errors' });
      }
    });
    return found;
  }

  function stack(panel, alt) {
    const whole = make('span', { className: panel.errors ? 'stack errors' : 'stack' });
    if (panel.base) whole.append(make('img', { src: url(panel.base), alt: panel.map ? '' : alt }));
    if (panel.map) whole.append(make('img', { src: url(panel.map), alt, className: 'map' }));
    return whole;
  }

  function card(entry, position) {
    const image = row(entry);
    const article = make('article', { className: 'card', id: `image-${entry.image}`, tabIndex: -1 });
    article.append(make('h3', { textContent: image[0] || `image ${entry.image}` }));
    data.runs.forEach((name, run) => {
      const numbers = image[3 + run];
      if (!numbers) return;
      const said = make('p', { className: 'said' });
      const difference = several && run === 1 && change(image) !== null ? ` (${signed(change(image))})` : '';
      said.append(
        make('b', { textContent: `${several ? `${name}: ` : ''}PQ ${percent(numbers[0])}${difference}` }),
        ` · ${numbers[1]} matched, ${numbers[2]} missed, ${numbers[3]} false positive${numbers[3] === 1 ? '' : 's'} · ${entry.said[run]}`,
      );
      article.append(said);
    });
    const panels = make('div', { className: several ? 'panels several' : 'panels' });
    panelsOf(entry).forEach((panel, number) => {
      const alt = `${panel.title} of ${image[0]}`;
      const button = make('button', { type: 'button', title: 'larger' }, stack(panel, alt));
      button.addEventListener('click', () => view(position, number));
      panels.append(make('figure', {}, button, make('figcaption', { textContent: panel.title })));
    });
    article.append(panels);
    return article;
  }

  const errorsOf = (entry) => Object.values(entry.classes).reduce((a, b) => a + b, 0);
  let chosen = [];
  let shown = 0;

  function choose() {
    const reason = $('show').value;
    const wanted = $('class').value;
    const name = $('name').value.trim().toLowerCase();
    $('wrong').disabled = wanted === '';
    chosen = data.gallery.filter((entry) => {
      // A class has images of its own, beside those of the reason.
      if (reason !== 'all' && wanted === '' && !entry.reasons.includes(reason)) return false;
      if (wanted !== '' && !(wanted in entry.classes)) return false;
      if (wanted !== '' && $('wrong').checked && !entry.classes[wanted]) return false;
      return row(entry)[0].toLowerCase().includes(name);
    });
    const by = {
      worst: (entry) => quality(row(entry)) ?? 101,
      best: (entry) => -(quality(row(entry)) ?? -1),
      changed: (entry) => -Math.abs(change(row(entry)) ?? 0),
      random: () => 0,
      all: (entry) => entry.image,
    }[reason];
    chosen.sort((a, b) => by(a) - by(b));
    $('found').textContent = `${chosen.length} images`;
    $('cards').replaceChildren();
    shown = 0;
    more();
  }

  function more(until = shown + CARDS) {
    const next = chosen.slice(shown, until);
    $('cards').append(...next.map((entry, i) => card(entry, shown + i)));
    shown += next.length;
    $('more').hidden = shown >= chosen.length;
  }

  for (const id of ['show', 'class', 'wrong', 'name']) $(id).addEventListener('input', choose);
  $('more').addEventListener('click', () => more());
  $('opacity').addEventListener('input', () => {
    document.documentElement.style.setProperty('--opacity', $('opacity').value / 100);
  });

  // Viewer ---------------------------------------------------------------------------------------

  const viewer = $('viewer');
  let place = [0, 0];

  function view(position, number) {
    const all = panelsOf(chosen[position]);
    number = (number + all.length) % all.length;
    place = [position, number];
    const image = row(chosen[position]);
    viewer.querySelector('strong').textContent =
      `${image[0]} · ${all[number].title} · PQ ${percent(quality(image))}`;
    viewer.querySelector('.canvas').replaceChildren(stack(all[number], `${all[number].title} of ${image[0]}`));
    viewer.style.setProperty('--ratio', image[2] / image[1]);
    if (!viewer.open) viewer.showModal();
  }

  function step(images, ofImage) {
    const position = Math.min(Math.max(place[0] + images, 0), chosen.length - 1);
    if (position >= shown) more(position + 1);
    view(position, place[1] + ofImage);
  }

  viewer.addEventListener('keydown', (event) => {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (!(event.key in moves)) return;
    event.preventDefault();
    step(...moves[event.key]);
  });
  viewer.addEventListener('click', (event) => {
    const button = event.target.closest('button');
    if (event.target === viewer || (button && 'close' in button.dataset)) viewer.close();
    else if (button) step(0, Number(button.dataset.step));
  });

  // Table of all images --------------------------------------------------------------------------

  const columns = [{ title: 'image', of: (image) => image[0] }];
  data.runs.forEach((name, run) => {
    const of = several ? ` ${name}` : '';
    columns.push({ title: `PQ${of}`, number: true, of: (image) => quality(image, run) });
    if (several && run > 0) {
      const differ = (image) => {
        const pair = [quality(image, 0), quality(image, run)];
        return pair.includes(null) ? null : pair[1] - pair[0];
      };
      columns.push({ title: `${name} − ${data.runs[0]}`, number: true, signed: true, of: differ });
    }
    ['TP', 'FN', 'FP'].forEach((title, i) => {
      columns.push({ title: title + of, number: true, whole: true, of: (image) => image[3 + run]?.[1 + i] ?? null });
    });
  });
  const withPanels = new Map(data.gallery.map((entry) => [entry.image, entry]));
  const order = data.images.map((_, i) => i);
  let page = 0;
  const body = make('tbody');
  const titles = make('tr');
  columns.forEach((column) => {
    const button = make('button', { type: 'button', textContent: column.title });
    const head = make('th', { scope: 'col', className: column.number ? 'number' : '' }, button);
    head.setAttribute('aria-sort', 'none');
    button.addEventListener('click', () => sortImages(column, turn(head, column.number)));
    titles.append(head);
    column.head = head;
  });
  const said = several
    ? 'Every image, the greatest losses first. Images that are shown are links.'
    : 'Every image, the worst first. Images that are shown are links.';
  $('image-table').append(make('caption', { textContent: said }), make('thead', {}, titles), body);

  function sortImages(column, ascending) {
    const sign = ascending ? 1 : -1;
    order.sort((a, b) => {
      const pair = [column.of(data.images[a]), column.of(data.images[b])];
      if (pair[0] === null || pair[1] === null) return (pair[0] === null) - (pair[1] === null);
      return sign * compare(...pair);
    });
    page = 0;
    fill();
  }

  function fill() {
    const rows = order.slice(page * ROWS, (page + 1) * ROWS).map((index) => {
      const line = make('tr');
      columns.forEach((column, i) => {
        const value = column.of(data.images[index]);
        const cell = make(i ? 'td' : 'th', { className: column.number ? 'number' : '' });
        if (i === 0) {
          cell.scope = 'row';
          const name = value || `image ${index}`;
          if (withPanels.has(index)) {
            const link = make('a', { href: `#image-${index}`, textContent: name });
            link.addEventListener('click', (event) => { event.preventDefault(); reveal(index); });
            cell.append(link);
          } else {
            cell.textContent = name;
          }
        } else if (value === null) {
          cell.textContent = '–';
        } else {
          cell.textContent = column.whole ? value : column.signed ? signed(value) : percent(value);
          if (column.signed && Math.abs(value) >= 0.05) cell.classList.add(value > 0 ? 'better' : 'worse');
        }
        line.append(cell);
      });
      return line;
    });
    body.replaceChildren(...rows);
    const pages = Math.ceil(order.length / ROWS);
    $('page').textContent = `${page * ROWS + 1} to ${page * ROWS + rows.length} of ${order.length}`;
    $('previous').disabled = page === 0;
    $('next').disabled = page + 1 >= pages;
  }

  function reveal(index) {
    $('show').value = 'all';
    $('class').value = '';
    $('name').value = '';
    choose();
    const position = chosen.findIndex((entry) => entry.image === index);
    if (position >= shown) more(position + 1);
    const article = $(`image-${index}`);
    article.scrollIntoView();
    article.focus();
  }

  $('previous').addEventListener('click', () => { page -= 1; fill(); });
  $('next').addEventListener('click', () => { page += 1; fill(); });
  const start = columns.find((column) => (several ? column.signed : column.number));
  start.head.setAttribute('aria-sort', 'ascending');
  sortImages(start, true);
  choose();
})();
