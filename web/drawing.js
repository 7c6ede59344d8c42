// Segments of a map, and how they are drawn and listed.

const MOST_NAMES = 24;

/** The segments of a map [height, width], the largest first. */
export function segmentsOf(map, width, height, scores, about) {
  const depths = depthsOf(map, width, height);
  const found = new Map();
  for (let index = 0; index < map.length; index++) {
    const id = map[index];
    if (id === about.void_id) continue;
    let segment = found.get(id);
    if (!segment) found.set(id, (segment = { id, area: 0, depth: 0 }));
    segment.area++;
    // The name stands where the segment is widest.
    if (depths[index] > segment.depth) {
      segment.depth = depths[index];
      segment.at = index;
    }
  }
  const segments = [...found.values()].sort((a, b) => b.area - a.area);
  const seen = new Map();
  for (const segment of segments) {
    segment.classId = Math.floor(segment.id / about.label_divisor);
    const described = about.classes[segment.classId];
    segment.name = described.name;
    segment.score = scores.get(segment.id);
    const number = seen.get(segment.classId) ?? 0;
    seen.set(segment.classId, number + 1);
    segment.number = number + 1;
    segment.color = shade(described.color, described.is_thing ? number : 0);
  }
  for (const segment of segments) {
    segment.label = seen.get(segment.classId) > 1 ? `${segment.name} ${segment.number}` : segment.name;
  }
  return segments;
}

/** How many steps each pixel is from another segment or the edge. */
function depthsOf(map, width, height) {
  const depths = new Uint16Array(map.length);
  const visit = (index, x, y, step, first) => {
    const isFirstX = x === (step > 0 ? 0 : width - 1);
    const isFirstY = y === (step > 0 ? 0 : height - 1);
    const from = (other, isOutside) =>
      isOutside || map[other] !== map[index] ? 0 : depths[other];
    const beside = from(index - step, isFirstX);
    const before = from(index - step * width, isFirstY);
    const depth = Math.min(beside, before) + 1;
    depths[index] = first ? depth : Math.min(depths[index], depth);
  };
  for (let y = 0, index = 0; y < height; y++) {
    for (let x = 0; x < width; x++, index++) visit(index, x, y, 1, true);
  }
  for (let y = height - 1, index = map.length - 1; y >= 0; y--) {
    for (let x = width - 1; x >= 0; x--, index--) visit(index, x, y, -1, false);
  }
  return depths;
}

/** The colour of a class, lighter and darker by turns for its instances. */
function shade(color, number) {
  if (!number) return color;
  const strength = Math.min(0.15 * Math.ceil(number / 2), 0.6);
  const towards = number % 2 ? 255 : 0;
  return color.map((value) => Math.round(value + (towards - value) * strength));
}

/** Draws image, map and names. */
export function draw(context, source, map, segments, { opacity, names }) {
  const { width, height } = context.canvas;
  context.drawImage(source, 0, 0, width, height);
  if (map) {
    const overlay = new ImageData(width, height);
    const colors = new Map(segments.map((segment) => [segment.id, segment.color]));
    for (let index = 0; index < map.length; index++) {
      const color = colors.get(map[index]);
      if (!color) continue;
      const isEdge =
        (index % width && map[index - 1] !== map[index]) ||
        (index >= width && map[index - width] !== map[index]);
      const target = index * 4;
      for (let channel = 0; channel < 3; channel++) {
        overlay.data[target + channel] = isEdge ? 255 : color[channel];
      }
      overlay.data[target + 3] = 255 * (isEdge ? Math.min(1, opacity * 1.3) : opacity);
    }
    const layer = new OffscreenCanvas(width, height);
    layer.getContext('2d').putImageData(overlay, 0, 0);
    context.drawImage(layer, 0, 0);
  }
  if (names) segments.slice(0, MOST_NAMES).forEach((segment) => drawName(context, segment));
}

function drawName(context, segment) {
  const { width, height } = context.canvas;
  const size = Math.max(11, Math.round(Math.min(width, height) / 34));
  context.font = `600 ${size}px system-ui, "DejaVu Sans", sans-serif`;
  context.textAlign = 'center';
  context.textBaseline = 'middle';
  if (segment.depth < size * 0.6) return; // Too narrow; the legend has it.
  const half = context.measureText(segment.label).width / 2;
  const x = Math.min(Math.max(segment.at % width, half + 4), width - half - 4);
  const y = Math.min(Math.max(Math.floor(segment.at / width), size), height - size);
  context.lineWidth = size / 4;
  context.lineJoin = 'round';
  context.strokeStyle = 'rgb(0 0 0 / 75%)';
  context.strokeText(segment.label, x, y);
  context.fillStyle = '#fff';
  context.fillText(segment.label, x, y);
}

/** Fills the legend. */
export function list(element, segments, pixels) {
  element.replaceChildren(
    ...segments.map((segment) => {
      const item = document.createElement('li');
      const swatch = document.createElement('span');
      swatch.className = 'swatch';
      swatch.style.background = `rgb(${segment.color.join(' ')})`;
      const name = document.createElement('span');
      name.textContent = segment.label;
      const fraction = document.createElement('span');
      fraction.className = 'fraction';
      const sure = segment.score === undefined ? '' : `, ${segment.score.toFixed(2)}`;
      fraction.textContent = `${((100 * segment.area) / pixels).toFixed(1)} %${sure}`;
      fraction.title = sure ? 'Fraction of the image, and score' : 'Fraction of the image';
      item.append(swatch, name, fraction);
      return item;
    }),
  );
  if (!segments.length) {
    const item = document.createElement('li');
    item.className = 'empty';
    item.textContent = 'Nothing found.';
    element.append(item);
  }
}

/** What is in the image, in words. */
export function describe(segments) {
  const counts = new Map();
  for (const { name } of segments) counts.set(name, (counts.get(name) ?? 0) + 1);
  const parts = [...counts].map(([name, count]) => (count > 1 ? `${count} ${name}` : name));
  return parts.length ? `Segments: ${parts.join(', ')}` : 'No segments found';
}
