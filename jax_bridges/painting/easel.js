// ---- the easel: strokes in pixels of the picture, drawn at the size of the screen
const dots = () => devicePixelRatio || 1;
const resize = () => {
  const box = easel.getBoundingClientRect();
  const width = Math.round(box.width * dots()), height = Math.round(box.height * dots());
  if (!width || (easel.width === width && easel.height === height)) return;
  for (const each of [easel, layer]) { each.width = width; each.height = height; }
  if (picture) fit();
};
new ResizeObserver(resize).observe(easel);
const whole = () => Math.min(easel.width / picture.width, easel.height / picture.height);
const fit = () => {
  view.scale = Math.min(whole(), 16);
  view.x = (easel.width - picture.width * view.scale) / 2;
  view.y = (easel.height - picture.height * view.scale) / 2;
  replay();
};
const zoom = (factor, x = easel.width / 2, y = easel.height / 2) => {
  const scale = Math.min(Math.max(view.scale * factor, Math.min(whole(), 1)), Math.max(32, whole()));
  view.x = x - (x - view.x) * scale / view.scale;
  view.y = y - (y - view.y) * scale / view.scale;
  view.scale = scale;
  move(0, 0);
};
const move = (dx, dy) => {  // never further than that the picture's edge is in the middle
  const keep = (at, size, room) => Math.min(Math.max(at, room / 2 - size * view.scale), room / 2);
  view.x = keep(view.x + dx, picture.width, easel.width);
  view.y = keep(view.y + dy, picture.height, easel.height);
  replay();
};
const draw = (context, stroke, from = 0) => {
  if (stroke.clear) {
    context.save();
    context.globalCompositeOperation = 'destination-out';
    context.fillRect(0, 0, picture.width, picture.height);
    context.restore();
    return;
  }
  context.globalCompositeOperation = stroke.erase ? 'destination-out' : 'source-over';
  if (stroke.mask) { context.drawImage(stroke.mask, 0, 0); return; }
  const points = stroke.points, begin = Math.max(0, from - 1);
  context.lineWidth = 2 * stroke.radius;
  context.lineCap = context.lineJoin = 'round';
  context.beginPath();
  context.moveTo(...points[begin]);
  for (let i = begin; i < points.length; i++) context.lineTo(...points[i]);
  context.stroke();
};
const replay = () => {
  if (!picture) return;
  paint.setTransform(1, 0, 0, 1, 0, 0);
  paint.globalCompositeOperation = 'source-over';
  paint.clearRect(0, 0, layer.width, layer.height);
  paint.setTransform(view.scale, 0, 0, view.scale, view.x, view.y);
  paint.fillStyle = paint.strokeStyle = HOLE;
  strokes.forEach(stroke => draw(paint, stroke));
  show();
};
let waiting = false, hover = null;
const show = () => {
  if (waiting || !picture) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    paper.setTransform(1, 0, 0, 1, 0, 0);
    paper.clearRect(0, 0, easel.width, easel.height);
    paper.imageSmoothingEnabled = view.scale < 3 * dots();  // then pixels are to be seen
    paper.imageSmoothingQuality = 'high';
    const size = [picture.width * view.scale, picture.height * view.scale];
    paper.drawImage(picture.image, view.x, view.y, ...size);
    if (task().masks !== 'none') {
      paper.save();
      paper.beginPath();
      paper.rect(view.x, view.y, ...size);
      paper.clip();
      paper.globalAlpha = 0.6;
      paper.drawImage(layer, 0, 0);
      paper.restore();
    }
    if (hover && tool !== 'move') {
      for (const [color, extra] of [['#000a', 1], ['#fff', 0]]) {
        paper.strokeStyle = color;
        paper.lineWidth = 1.5 * dots();
        paper.beginPath();
        paper.arc(hover[0], hover[1], radius() + extra * dots(), 0, 7);
        paper.stroke();
      }
    }
    const painted = strokes.length && !strokes[strokes.length - 1].clear;
    $('undo').disabled = !strokes.length;
    $('redo').disabled = !undone.length;
    $('clear').disabled = !painted;
    offer();
    $('fit').textContent = `${Math.round(100 * view.scale / dots())}%`;
  });
};
const radius = () => dots() * 2 * Math.exp($('size').value / 100 * Math.log(40));  // 2 to 80
const place = event => {
  const box = easel.getBoundingClientRect();
  return [(event.clientX - box.left) * dots(), (event.clientY - box.top) * dots()];
};
const inside = ([x, y]) => [(x - view.x) / view.scale, (y - view.y) / view.scale];
const pointers = new Map();
let stroke = null, dragging = false, space = false;
easel.addEventListener('pointerdown', event => {
  if (event.button > 1 || !picture) return;
  if (event.button) event.preventDefault();  // the middle one would scroll
  easel.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, place(event));
  if (pointers.size === 2 && stroke) {  // the first of two fingers has painted
    strokes.pop();
    stroke = null;
    replay();
  }
  dragging = pointers.size > 1 || tool === 'move' || space || event.button === 1;
  if (dragging) return;
  stroke = {erase: tool === 'eraser', radius: radius() / view.scale, points: [inside(place(event))]};
  strokes.push(stroke);
  undone = [];
  draw(paint, stroke);
  show();
});
easel.addEventListener('pointermove', event => {
  const at = place(event), before = pointers.get(event.pointerId);
  hover = event.pointerType === 'touch' ? null : at;
  if (!before) { show(); return; }
  if (stroke) {
    const from = stroke.points.length;
    const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    (events.length ? events : [event]).forEach(each => stroke.points.push(inside(place(each))));
    draw(paint, stroke, from);
    show();
  } else if (dragging && pointers.size === 1) {
    move(at[0] - before[0], at[1] - before[1]);
  } else if (pointers.size === 2) {
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
    const apart = point => Math.hypot(point[0] - other[0], point[1] - other[1]);
    zoom(apart(at) / Math.max(1, apart(before)), ...other);
    move((at[0] - before[0]) / 2, (at[1] - before[1]) / 2);
  }
  pointers.set(event.pointerId, at);
});
for (const name of ['pointerup', 'pointercancel']) {
  easel.addEventListener(name, event => {
    pointers.delete(event.pointerId);
    stroke = null;
    dragging = pointers.size > 0;  // the finger that is left does not paint
    show();
  });
}
easel.addEventListener('pointerleave', () => { hover = null; show(); });
easel.addEventListener('wheel', event => {
  if (!picture) return;
  event.preventDefault();
  zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), ...place(event));
}, {passive: false});
const back = () => { if (strokes.length) { undone.push(strokes.pop()); replay(); } };
const again = () => { if (undone.length) { strokes.push(undone.pop()); replay(); } };
const add = each => { strokes.push(each); undone = []; replay(); };
document.querySelectorAll('[data-tool]').forEach(each =>
  each.addEventListener('click', () => pick(each.dataset.tool)));
$('undo').addEventListener('click', back);
$('redo').addEventListener('click', again);
$('clear').addEventListener('click', () => add({clear: true}));
$('in').addEventListener('click', () => zoom(1.5));
$('out').addEventListener('click', () => zoom(1 / 1.5));
$('fit').addEventListener('click', fit);
addEventListener('keydown', event => {
  if ($('edit').hidden || event.target.matches('select, input:not([type=range])')) return;
  const key = event.key.toLowerCase(), paints = task().masks !== 'none';
  if (event.ctrlKey || event.metaKey) {
    if (key === 'z' || key === 'y') {
      event.preventDefault();
      (key === 'y' || event.shiftKey ? again : back)();
    }
    return;
  }
  if (key === ' ' && event.target === easel) { space = true; event.preventDefault(); }
  if (key === 'b' && paints) pick('brush');
  if (key === 'e' && paints) pick('eraser');
  if (key === 'm') pick('move');
  if (key === '[' || key === ']') { $('size').value -= key === '[' ? 5 : -5; show(); }
  if (key === '+' || key === '=') zoom(1.5);
  if (key === '-') zoom(1 / 1.5);
  if (key === '0') fit();
});
addEventListener('keyup', event => { if (event.key === ' ') space = false; });
const opaque = () => {  // whether what is transparent is part of the paint
  const since = strokes.map(each => Boolean(each.clear)).lastIndexOf(true);
  return strokes.slice(since + 1).some(each => each.mask);
};
const offer = () => {
  const able = picture && picture.transparent && task().masks !== 'none';
  $('transparent').hidden = !able || opaque();
};
$('transparent').addEventListener('click', async () => {
  try {
    const sent = await ask(`transparent?${query({id: picture.id})}`, {method: 'POST'});
    add({mask: await coloured(await createImageBitmap(await sent.blob()))});
    offer();
  } catch (error) { failed(error); }
});
const coloured = mask => {  // white where paint goes -> paint, and nothing elsewhere
  const canvas = new OffscreenCanvas(mask.width, mask.height), context = canvas.getContext('2d');
  context.drawImage(mask, 0, 0);
  const pixels = context.getImageData(0, 0, mask.width, mask.height);
  const [red, green, blue] = HOLE.match(/\w\w/g).map(each => parseInt(each, 16));
  for (let i = 0; i < pixels.data.length; i += 4) {
    pixels.data[i + 3] = pixels.data[i];
    pixels.data[i] = red; pixels.data[i + 1] = green; pixels.data[i + 2] = blue;
  }
  context.putImageData(pixels, 0, 0);
  return createImageBitmap(canvas);
};
