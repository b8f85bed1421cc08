'use strict';
// The page: words, tabs, and a picture that comes in. easel.js paints on it, answers.js asks and compares.
// PAGE = {tabs: [{name, about, masks, enlarge, verb}], bytes}. Addresses are relative to the token's.
const $ = id => document.getElementById(id);
const easel = $('easel'), paper = easel.getContext('2d');
const layer = document.createElement('canvas'), paint = layer.getContext('2d');
const HOLE = getComputedStyle(document.documentElement).getPropertyValue('--hole').trim();
const SHOWN = 1600;  // pixels: the widest picture that is compared
let picture = null;  // {id, name, width, height, transparent, image}
let tab = 0, tool = 'brush', strokes = [], undone = [], view = {scale: 1, x: 0, y: 0};
let working = null, first = 0, shown = null;  // {answers, size, tab}: what is compared

// ---- words
const say = (text, kind = '') => { $('say').textContent = text; $('say').className = kind; };
const tell = notes => $('notes').replaceChildren(...notes.map(text => {
  const item = document.createElement('li');
  item.textContent = text;
  return item;
}));
const query = values => new URLSearchParams(values).toString();
const ask = async (address, options) => {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The command has ended: start it again, and open the address that it prints.');
  }
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
};
const failed = error => {
  if (error.name === 'AbortError') say('Stopped.');
  else say(error.message, 'wrong');
};

// ---- which of the three views, and which tab
const open = name => {
  for (const part of ['start', 'edit', 'result']) $(part).hidden = part !== name;
  if (name === 'edit') resize();
};
const task = () => PAGE.tabs[tab];
const choose = index => {
  tab = index;
  [...$('tabs').children].forEach((each, i) => each.setAttribute('aria-selected', i === tab));
  const holes = task().masks !== 'none';
  document.querySelectorAll('.paints').forEach(each => { each.hidden = !holes; });
  $('go').textContent = working ? 'Stop' : task().verb;
  $('count').value = holes && task().varies ? '4' : '1';
  $('count').disabled = !task().varies;
  $('about').textContent = task().about;
  pick(holes ? 'brush' : 'move');
  offer();
  if (picture && !working) { open('edit'); say(hint()); tell([]); }
};
const hint = () => task().masks === 'needed' ? 'Paint over what is missing or should go.'
  : task().masks === 'possible' ? 'Paint over what is missing, if anything is.'
  : `${picture.width} × ${picture.height} pixels` + (task().enlarge > 1
    ? `, ${picture.width * task().enlarge} × ${picture.height * task().enlarge} afterwards.` : '.');
const pick = name => {
  tool = name;
  document.querySelectorAll('[data-tool]').forEach(each =>
    each.setAttribute('aria-pressed', each.dataset.tool === name));
  show();
};

// ---- a picture comes in
const take = async (given, name) => {
  if (working) working.abort();
  if (given.size > PAGE.bytes) {
    say(`This file has ${Math.round(given.size / 1e6)} MB, more than this page takes.`, 'wrong');
    return;
  }
  say('Reading the picture', 'busy');
  tell([]);
  try {
    await accept(await ask(`picture?${query({name})}`, {method: 'POST', body: given}));
  } catch (error) { failed(error); }
};
const accept = async answer => {
  const next = await answer.json();
  const sent = await ask(`picture?${query({id: next.id})}`);
  next.image = await createImageBitmap(await sent.blob());
  picture = next;
  strokes = [];
  undone = [];
  first = 0;
  choose(tab);
  fit();
};
const files = list => { if (list && list.length) take(list[0], list[0].name); };
$('file').addEventListener('change', event => { files(event.target.files); event.target.value = ''; });
$('other').addEventListener('click', () => $('file').click());
addEventListener('paste', event => files(event.clipboardData.files));
addEventListener('dragover', event => { event.preventDefault(); document.body.classList.add('over'); });
addEventListener('dragleave', event => {
  if (!event.relatedTarget) document.body.classList.remove('over');
});
addEventListener('drop', event => {
  event.preventDefault();
  document.body.classList.remove('over');
  files(event.dataTransfer.files);
});

addEventListener('DOMContentLoaded', () => {
  PAGE.tabs.forEach((each, index) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = each.name;
    button.setAttribute('role', 'tab');
    button.addEventListener('click', () => choose(index));
    $('tabs').append(button);
  });
  $('tabs').hidden = PAGE.tabs.length < 2;
  choose(0);
  open('start');
});
