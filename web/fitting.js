// How images are brought into the crop that the network takes, and maps of it back to the size of
// the image: the operations of deeplab2/data/geometry.py, each rounded to float32 as there.

const f32 = Math.fround;

/** Size [height, width] that an image of `size` has in the crop. */
export function resizedSize(size, about) {
  const { crop_size: crop, min_size: smallest, max_size: largest, factor } = about;
  const scaled = (sides, scale) => sides.map((side) => Math.max(1, Math.trunc(f32(side * scale))));
  const ratios = (limit, sides) => limit.map((side, axis) => f32(side / sides[axis]));
  let sides = size;
  if (smallest) sides = scaled(sides, Math.max(...ratios(smallest, sides)));
  let limit = largest ?? crop;
  if (factor) limit = limit.map((side) => side - ((side - 1) % factor));
  sides = scaled(sides, Math.min(...ratios(limit, sides), 1));
  if (factor) sides = sides.map((side) => side + ((((1 - side) % factor) + factor) % factor));
  return sides;
}

/** The samples that bilinear resizing mixes, and the fraction of the second. */
function neighbours(size, newSize) {
  const step = f32((size - 1) / Math.max(newSize - 1, 1));
  return Array.from({ length: newSize }, (_, index) => {
    const position = f32(index * step);
    const below = Math.floor(position);
    return [Math.min(below, size - 1), Math.min(below + 1, size - 1), f32(position - below)];
  });
}

/**
 * Resizes RGBA pixels [height, width, 4] into the crop and pads them: Float32Array [H, W, 3] of
 * 0..255, and the size of the image inside.
 */
export function fit(pixels, width, height, about) {
  const [cropHeight, cropWidth] = about.crop_size;
  const resized = resizedSize([height, width], about);
  const fitted = new Float32Array(cropHeight * cropWidth * 3).fill(127.5);
  const columns = neighbours(width, resized[1]);
  neighbours(height, resized[0]).forEach(([top, bottom, down], row) => {
    let target = row * cropWidth * 3;
    for (const [left, right, across] of columns) {
      for (let channel = 0; channel < 3; channel++) {
        const at = (y, x) => pixels[(y * width + x) * 4 + channel];
        const between = (first, second, fraction) => f32(first + f32(f32(second - first) * fraction));
        const above = between(at(top, left), at(top, right), across);
        const below = between(at(bottom, left), at(bottom, right), across);
        fitted[target++] = between(above, below, down);
      }
    }
  });
  return { fitted, resized };
}

/** For each of `newSize` samples, the nearest of `size` samples. */
function nearest(size, newSize) {
  const step = f32((size - 1) / Math.max(newSize - 1, 1));
  return Int32Array.from({ length: newSize }, (_, index) => {
    const position = f32(index * step);
    const below = Math.floor(position);
    return Math.min(below + (f32(position - below) >= 0.5 ? 1 : 0), size - 1);
  });
}

/** Brings a map of the crop to a size of the image: Int32Array [height, width]. */
export function restore(map, cropWidth, resized, width, height) {
  const columns = nearest(resized[1], width);
  const restored = new Int32Array(width * height);
  nearest(resized[0], height).forEach((row, y) => {
    for (let x = 0; x < width; x++) restored[y * width + x] = map[row * cropWidth + columns[x]];
  });
  return restored;
}
