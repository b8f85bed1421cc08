// ---- answers
const painted = async () => {  // {left, top, body}: the part of the picture with paint, in white on black
  let box = [picture.width, picture.height, 0, 0];
  for (const each of strokes.filter(each => !each.erase && !each.clear)) {
    const points = each.mask ? [[0, 0], [picture.width, picture.height]] : each.points;
    const r = each.mask ? 0 : each.radius + 1;
    for (const [x, y] of points) {
      box = [Math.min(box[0], x - r), Math.min(box[1], y - r), Math.max(box[2], x + r),
        Math.max(box[3], y + r)];
    }
  }
  const [left, top] = box.slice(0, 2).map(each => Math.max(0, Math.floor(each)));
  const width = Math.min(picture.width, Math.ceil(box[2])) - left;
  const height = Math.min(picture.height, Math.ceil(box[3])) - top;
  if (width <= 0 || height <= 0) return null;
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext('2d');
  context.translate(-left, -top);
  context.strokeStyle = context.fillStyle = '#fff';
  strokes.forEach(each => draw(context, each));
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.globalCompositeOperation = 'source-in';
  context.fillRect(0, 0, width, height);  // paint of any colour becomes white
  context.globalCompositeOperation = 'destination-over';
  context.fillStyle = '#000';
  context.fillRect(0, 0, width, height);
  return {left, top, body: await canvas.convertToBlob()};
};
const start = async () => {
  if (working) { working.abort(); return; }
  const from = task().varies ? first : 0;  // a model of one answer gives it again
  const asked = {id: picture.id, tab, first: from, count: Number($('count').value)};
  const taken = task().masks !== 'none' && opaque();
  const begin = performance.now(), answers = [], notes = [], whole = task().enlarge;
  let size = [picture.width, picture.height], doing = 'Starting', tiles = 0;
  const progress = () => {
    const done = answers.length ? `${answers.length} of ${asked.count} answers, ` : '';
    const parts = tiles ? `${tiles} tiles, ` : '';
    say(`${doing}: ${done}${parts}${Math.round((performance.now() - begin) / 1000)} s`, 'busy');
  };
  working = new AbortController();
  $('go').textContent = 'Stop';
  tell([]);
  progress();
  const clock = setInterval(progress, 500);
  try {
    const mask = task().masks === 'none' ? null : await painted();
    if (!mask && task().masks === 'needed') throw new Error('Paint over what is missing first.');
    const {body, ...corner} = mask || {};
    const sent = await ask(`answers?${query({...asked, ...corner, opaque: Number(taken)})}`,
      {method: 'POST', body, signal: working.signal});
    const reader = sent.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = '', part; !(part = await reader.read()).done;) {
      const lines = (rest + part.value).split('\n');
      rest = lines.pop();
      for (const line of lines) {
        const event = JSON.parse(line);
        if (event.error) throw new Error(event.error);
        if (event.doing) doing = event.doing;
        if (event.tiles) tiles += event.tiles;
        if (event.note) notes.push(event.note);
        if (event.size) size = event.size;
        if ('answer' in event) {
          const [left, top, width, height] = event.box;
          const part = {id: asked.id, number: event.answer, left, top, width, height};
          const patch = await ask(`answer?${query(part)}`, {signal: working.signal});
          answers.push({...event, image: await createImageBitmap(await patch.blob())});
        }
        progress();
      }
    }
    if (answers.length < asked.count) throw new Error('The command has ended: start it again.');
    first = from + asked.count;
    shown = {answers: answers.sort((a, b) => a.answer - b.answer), size, whole, id: asked.id, tab: asked.tab};
    await compare();
    say(`${answers.length > 1 ? `${answers.length} answers` : 'Done'} in ${
      ((performance.now() - begin) / 1000).toFixed(1)} s. Drag across the picture to compare.`);
    tell(notes);
  } catch (error) {
    failed(error);
  } finally {
    clearInterval(clock);
    working = null;
    $('go').textContent = task().verb;
  }
};
$('go').addEventListener('click', start);

// ---- the comparison
const closeUp = () => {  // the hole with what is around it, or what was seen on the easel
  const [wide, high] = shown.size, whole = shown.whole;
  const [x, y, w, h] = shown.answers[0].box;
  let box = [x, y, w, h];
  if (w === wide && h === high) {
    const [left, top] = inside([0, 0]), [right, bottom] = inside([easel.width, easel.height]);
    const all = left <= 0 && top <= 0 && right >= picture.width && bottom >= picture.height;
    const side = Math.min(high, 512), across = side * wide / high;
    box = all ? [(wide - across) / 2, (high - side) / 2, across, side]
      : [left * whole, top * whole, (right - left) * whole, (bottom - top) * whole];
  } else {
    const shape = wide / high, height = Math.max(1.5 * h, 1.5 * w / shape, 96);
    box = [x + w / 2 - height * shape / 2, y + h / 2 - height / 2, height * shape, height];
  }
  const cut = (at, length, most) => {
    const size = Math.min(Math.round(length), most);
    return [Math.min(Math.max(0, Math.round(at)), most - size), size];
  };
  const [left, width] = cut(box[0], box[2], wide), [top, height] = cut(box[1], box[3], high);
  return [left, top, width, height];
};
const version = async (region, name, patch) => {
  const [x, y, width, height] = region, scale = Math.min(1, SHOWN / Math.max(width, height));
  const size = [width, height].map(each => Math.max(1, Math.round(each * scale)));
  const canvas = new OffscreenCanvas(...size), context = canvas.getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.setTransform(size[0] / width, 0, 0, size[1] / height, -x * size[0] / width,
    -y * size[1] / height);
  context.imageSmoothingEnabled = shown.whole === 1;
  context.drawImage(picture.image, 0, 0, ...shown.size);
  context.imageSmoothingEnabled = true;
  if (patch) context.drawImage(patch.image, ...patch.box);
  const exact = size[0] * size[1] < 1e6;
  const blob = await canvas.convertToBlob(exact ? {} : {type: 'image/jpeg', quality: 0.95});
  const image = new Image(...size);
  image.src = URL.createObjectURL(blob);
  image.alt = image.dataset.name = name;
  image.tabIndex = 0;
  image.setAttribute('role', 'button');
  if (Math.max(...size) <= 256) image.className = 'small';
  await image.decode();
  return image;
};
const ofShown = () => {  // the tab that made what is compared, whichever was looked at meanwhile
  if (tab !== shown.tab) choose(shown.tab);
  $('count').value = String(shown.answers.length);
};
const compare = async () => {
  document.querySelectorAll('#result .strip img').forEach(each => URL.revokeObjectURL(each.src));
  const element = $('comparison').content.cloneNode(true), box = $('result');
  const strips = element.querySelectorAll('.strip');
  const names = shown.answers.map(each =>
    shown.answers.length > 1 || each.answer ? `answer ${each.answer + 1}` : 'after');
  for (const [i, region] of [closeUp(), [0, 0, ...shown.size]].entries()) {
    for (const [name, patch] of [['before', null], ...names.map((n, k) => [n, shown.answers[k]])]) {
      const figure = document.createElement('figure'), caption = document.createElement('figcaption');
      caption.textContent = name;
      figure.append(await version(region, name, patch), caption);
      strips[i].append(figure);
    }
  }
  box.replaceChildren(element);
  const choices = box.querySelectorAll('select');
  const show = compareVersions(box);
  const mark = () => {
    const chosen = names.indexOf(choices[1].value);
    const number = chosen < 0 ? 0 : shown.answers[chosen].answer;
    box.querySelectorAll('.strip img').forEach(each =>
      each.setAttribute('aria-pressed', each.dataset.name === choices[1].value));
    box.querySelectorAll('[data-kind]').forEach(each => {
      each.href = `download?${query({id: shown.id, number, kind: each.dataset.kind})}`;
      each.setAttribute('aria-disabled', chosen < 0);
    });
    box.querySelector('[data-do=keep]').disabled = chosen < 0;
    const image = box.querySelector('.strip:not([hidden]) img');
    box.firstElementChild.style.setProperty('--ratio', image.width / image.height);
    return number;
  };
  choices[1].addEventListener('change', mark);
  box.querySelectorAll('.strip img').forEach(each => {
    const take = () => {
      choices[1].value = each.dataset.name;
      choices[1].dispatchEvent(new Event('change'));
    };
    each.addEventListener('click', take);
    each.addEventListener('keydown', event => { if (event.key === 'Enter') take(); });
  });
  box.querySelectorAll('[name=region]').forEach((radio, i) =>
    radio.addEventListener('change', () => { show(i); mark(); }));
  const act = name => box.querySelector(`[data-do=${name}]`);
  act('others').hidden = !PAGE.tabs[shown.tab].varies;
  act('others').textContent = shown.answers.length > 1 ? `${shown.answers.length} others` : 'Another';
  act('others').addEventListener('click', () => { ofShown(); open('edit'); start(); });
  act('back').addEventListener('click', () => { open('edit'); say(hint()); tell([]); });
  act('keep').addEventListener('click', async () => {
    try {
      await accept(await ask(`keep?${query({id: shown.id, number: mark()})}`, {method: 'POST'}));
    } catch (error) { failed(error); }
  });
  show(0, 'before', names[0]);
  mark();
  ofShown();
  open('result');
};
