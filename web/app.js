// Loads the model, takes images, videos and the webcam, and shows what the model finds.

import { loadAndCompile, loadLiteRt, Tensor } from './vendor/litertjs-core-2.5.3/index.js';
import { describe, list, draw, segmentsOf } from './drawing.js';
import { fit, restore } from './fitting.js';

const RUNTIME = './vendor/litertjs-core-2.5.3/litert_wasm_';
const MOST_PIXELS_A_SIDE = 1280; // Of what is drawn; the map has those of the crop anyway.

const $ = (id) => document.getElementById(id);
const context = $('canvas').getContext('2d');
let about, model;
let shown = null; // { source, crop, resized, map, segments } of the last image or frame.
let stream = null; // { video, stop } while a video or the webcam runs.

function say(text, state) {
  $('status').textContent = text;
  if (state) document.body.dataset.state = state;
}

function fail(error) {
  console.error(error);
  say(error.message ?? String(error), 'error');
}

async function start() {
  const answer = await fetch('model/model.json');
  if (!answer.ok) throw new Error('This site has no model; write one by deeplab2-export --format=web.');
  about = await answer.json();
  // Threads need shared memory, which browsers give to pages with the right headers alone.
  const threaded = self.crossOriginIsolated && navigator.hardwareConcurrency > 1;
  await loadLiteRt(`${RUNTIME}${threaded ? 'threaded' : 'compat'}_internal.js`);
  model = await loadAndCompile('model/model.tflite', { accelerator: 'wasm' });
  const [height, width] = about.crop_size;
  const format = about.quantize === 'none' ? 'float32' : about.quantize;
  $('model').textContent =
    `${about.title}: ${about.classes.length} classes, sees ${width} × ${height} pixels, ${format}`;
  $('dependencies').textContent = about.dependencies
    .map(({ name, version, license }) => `${name} ${version} (${license})`)
    .join(', ');
  $('file').disabled = $('webcam').disabled = false;
  say(`Ready${threaded ? `, with ${navigator.hardwareConcurrency} threads` : ''}.`, 'ready');
}

/** Segments an image, or a frame of a video, of a size. */
async function segment(source, width, height) {
  const started = performance.now();
  const canvas = new OffscreenCanvas(width, height);
  const pixels = canvas.getContext('2d', { willReadFrequently: true });
  pixels.drawImage(source, 0, 0, width, height);
  const { fitted, resized } = fit(pixels.getImageData(0, 0, width, height).data, width, height, about);
  const [cropHeight, cropWidth] = about.crop_size;
  const fittedAt = performance.now();
  const image = new Tensor(fitted, [1, cropHeight, cropWidth, 3]);
  const outputs = await model.run({ image });
  const [crop, ids, scores] = await Promise.all(
    ['panoptic_pred', 'segment_ids', 'segment_scores'].map((name) => outputs[name].data()),
  );
  const crops = crop.slice();
  const byId = new Map(Array.from(ids, (id, index) => [id, scores[index]]));
  image.delete();
  Object.values(outputs).forEach((tensor) => tensor.delete());
  const ranAt = performance.now();

  const scale = Math.min(1, MOST_PIXELS_A_SIDE / Math.max(width, height));
  // Names need room; small images are drawn larger.
  const zoom = Math.max(1, Math.ceil(480 / Math.max(width, height)));
  const size = [width, height].map((side) => Math.max(1, Math.round(side * scale * zoom)));
  const map = restore(crops, cropWidth, resized, ...size);
  [context.canvas.width, context.canvas.height] = size;
  shown = { canvas, crop: crops, resized, width, height, map };
  shown.segments = segmentsOf(map, ...size, byId, about);
  redraw();
  list($('legend'), shown.segments, map.length);
  $('canvas').setAttribute('aria-label', describe(shown.segments));
  document.body.dataset.shown = '';
  const drawnAt = performance.now();
  const ms = (from, to) => `${Math.round(to - from)} ms`;
  return (
    `${ms(started, drawnAt)} a frame: resizing ${ms(started, fittedAt)}, ` +
    `model ${ms(fittedAt, ranAt)}, drawing ${ms(ranAt, drawnAt)}`
  );
}

function redraw() {
  if (!shown) return;
  draw(context, shown.canvas, shown.map, shown.segments, {
    opacity: $('opacity').value / 100,
    names: $('names').checked,
  });
}

async function openFile(file) {
  stop();
  document.body.dataset.state = 'busy';
  say(`Segmenting ${file.name} …`);
  if (file.type.startsWith('video/')) {
    const video = document.createElement('video');
    video.src = URL.createObjectURL(file);
    video.loop = true;
    await play(video, () => URL.revokeObjectURL(video.src));
    return;
  }
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name}: is no image or video that this browser can read.`);
  }
  say(await segment(image, image.width, image.height), 'done');
  image.close();
}

async function openWebcam() {
  stop();
  if (!navigator.mediaDevices) {
    throw new Error('Browsers give the webcam to pages from localhost or by HTTPS alone.');
  }
  const media = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
  const video = document.createElement('video');
  video.srcObject = media;
  await play(video, () => media.getTracks().forEach((track) => track.stop()));
}

/** Plays a video, frame after frame as fast as the model is. */
async function play(video, release) {
  video.muted = true;
  video.playsInline = true;
  const current = { stop: () => (video.pause(), release()) };
  stream = current;
  $('stop').hidden = false;
  await video.play();
  while (stream === current) {
    const times = await segment(video, video.videoWidth, video.videoHeight);
    if (stream === current) say(times, 'done');
    await new Promise(requestAnimationFrame);
  }
}

function stop() {
  stream?.stop();
  stream = null;
  $('stop').hidden = true;
}

/** The map of the last image at its own size, for programs: { width, height, ids }. */
window.panopticMap = () => {
  const { crop, resized, width, height } = shown;
  const ids = restore(crop, about.crop_size[1], resized, width, height);
  return { width, height, ids: Array.from(ids) };
};

$('file').addEventListener('change', (event) => {
  const [file] = event.target.files;
  event.target.value = ''; // So that the same file can be chosen again.
  if (file) openFile(file).catch(fail);
});
$('webcam').addEventListener('click', () => openWebcam().catch(fail));
$('stop').addEventListener('click', stop);
$('opacity').addEventListener('input', redraw);
$('names').addEventListener('change', redraw);
const drop = $('drop');
drop.addEventListener('dragover', (event) => {
  event.preventDefault();
  drop.classList.add('over');
});
drop.addEventListener('dragleave', () => drop.classList.remove('over'));
drop.addEventListener('drop', (event) => {
  event.preventDefault();
  drop.classList.remove('over');
  const [file] = event.dataTransfer.files;
  if (file && model) openFile(file).catch(fail);
});

start().catch(fail);
