"""The style sheet and the script of report.html, as text: the report is one file.

Colours and the slider that compares pictures are parts of their own, for other pages.
"""

COLOURS = """
:root { color-scheme: light dark; --paper:#fff; --ink:#1d2228; --soft:#5d6570; --faint:#9aa1ab;
  --line:#e1e4e8; --tint:#f5f6f8; --mark:#fdf1e6; --source:#8a9099; --teacher:#2a6cb0;
  --student:#c8501e; --other1:#3d8a5f; --other2:#8a5ba8; --other3:#a07d1c; --focus:#2a6cb0 }
@media (prefers-color-scheme: dark) { :root { --paper:#15181c; --ink:#e4e7eb; --soft:#a3abb6;
  --faint:#6f7782; --line:#2d333b; --tint:#1d2126; --mark:#3a2a1d; --teacher:#6ba7e5;
  --student:#ee8250; --other1:#6dbb8f; --other2:#bb92d6; --other3:#cfae55; --focus:#6ba7e5 } }
"""

_PAGE = """
* { box-sizing: border-box }
body { margin:0; background:var(--paper); color:var(--ink);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif }
main { max-width:1040px; margin:0 auto; padding:48px 24px 72px }
@media (max-width:520px) { main { padding:24px 16px 48px } }
h1 { font-size:30px; line-height:1.2; margin:4px 0 14px; letter-spacing:-.015em }
h2 { font-size:19px; margin:52px 0 12px; padding-top:14px; border-top:1px solid var(--line) }
h3 { font-size:15px; margin:22px 0 8px }
h3 .facts { font-weight:400; margin-left:6px }
p { margin:8px 0 }
.kicker, .note, figcaption, .facts { color:var(--soft); font-size:14px }
.note { max-width:78ch }
.kicker { margin:0 }
.headline { font-size:20px; line-height:1.45; max-width:60ch; margin:0 0 14px }
.missing { background:var(--tint); border-left:3px solid var(--faint); padding:8px 14px;
  font-size:15px; color:var(--soft) }
:focus-visible { outline:2px solid var(--focus); outline-offset:2px }

.scroll { overflow-x:auto; width:max-content; min-width:100%; max-width:calc(100vw - 48px);
  position:relative; left:50%; transform:translateX(-50%);
  background:linear-gradient(to left,var(--paper) 30%,transparent) 100% 0/56px 100% no-repeat local,
    linear-gradient(to left,#0003,transparent) 100% 0/16px 100% no-repeat scroll }
@media (max-width:760px) {
  .results tbody td:first-child, .results tr:not(.group) th:first-child { position:sticky; left:0;
    background:var(--paper); box-shadow:1px 0 var(--line) } }
table { border-collapse:collapse; font-size:15px; font-variant-numeric:tabular-nums }
table.results { width:100% }
th, td { padding:6px 10px; text-align:left; white-space:nowrap }
.results tbody td { border-top:1px solid var(--line) }
.results th { font-weight:600; font-size:13.5px; vertical-align:bottom; padding:2px 4px }
.results .group th { color:var(--soft); font-weight:400; text-align:center; padding:2px 10px }
.results .group span { display:block; border-bottom:1px solid var(--faint); padding-bottom:2px }
.results .number { text-align:right }
.results tbody tr:hover { background:var(--tint) }
.results tr.published { color:var(--soft); font-style:italic }
td.best { font-weight:700; background:var(--mark) }
th button { font:inherit; color:inherit; background:none; border:0; cursor:pointer;
  padding:3px 6px; border-radius:4px; text-align:inherit; line-height:1.25 }
th button:hover { background:var(--tint) }
th button small { font-weight:400; color:var(--soft); display:block; min-height:1.25em }
th[aria-sort] button { text-decoration:underline; text-underline-offset:4px;
  text-decoration-thickness:2px }
.dot { display:inline-block; width:9px; height:9px; border-radius:50%; margin-right:8px;
  background:var(--faint) }

.charts { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));
  gap:14px 28px }
.charts svg { width:100%; height:auto; display:block }
@media (max-width:520px) { .charts svg text { font-size:15px } }
.legend { display:flex; flex-wrap:wrap; gap:4px 24px; font-size:14px; color:var(--soft);
  margin:0 0 10px }
.legend svg { vertical-align:-1px }
"""

COMPARE_STYLE = """
.compare { display:grid; grid-template-columns:minmax(0,420px) minmax(0,1fr); gap:28px;
  align-items:start; margin-top:14px }
@media (max-width:760px) { .compare { grid-template-columns:1fr } }
.stage { position:relative; aspect-ratio:1; overflow:hidden; border-radius:4px;
  background:var(--tint); touch-action:pan-y }
.stage:focus-within { outline:2px solid var(--focus); outline-offset:2px }
.stage img { position:absolute; inset:0; width:100%; height:100%; object-fit:contain }
.stage .front { clip-path:inset(0 calc(100% - var(--cut)) 0 0) }
.stage i { position:absolute; top:0; bottom:0; left:var(--cut); width:2px; margin-left:-1px;
  background:#fff; box-shadow:0 0 3px #000a; pointer-events:none }
.stage i::after { content:"\\2194"; position:absolute; top:50%; left:1px; width:30px; height:30px;
  margin:-15px; border-radius:50%; background:#fff; color:#222; font:18px/29px system-ui;
  text-align:center; box-shadow:0 1px 4px #0007 }
.stage span { position:absolute; top:8px; padding:1px 8px; border-radius:3px; font-size:13px;
  color:#fff; background:#000a; pointer-events:none }
.stage .left { left:8px } .stage .right { right:8px }
.stage input { position:absolute; inset:0; width:100%; height:100%; margin:0; opacity:0;
  cursor:ew-resize; appearance:none; -webkit-appearance:none }
.stage input::-webkit-slider-thumb { -webkit-appearance:none; width:1px; height:1px }
.stage input::-moz-range-thumb { width:1px; height:1px; border:0 }
.controls { display:flex; flex-wrap:wrap; gap:8px 16px; margin:10px 0 0; font-size:14px }
.controls label { color:var(--soft); display:flex; gap:6px; align-items:center }
select { font:inherit; color:var(--ink); background:var(--paper); border:1px solid var(--faint);
  border-radius:4px; padding:3px 6px; max-width:190px }
.picker { display:flex; flex-wrap:wrap; gap:6px; border:0; padding:0; margin:0 0 14px }
.picker label { cursor:pointer; border-radius:4px; font-size:14px; padding:2px 9px;
  border:1px solid var(--line) }
.picker label:hover { background:var(--tint) }
.picker label:has(:checked) { background:var(--ink); color:var(--paper); border-color:var(--ink) }
.picker label:has(:focus-visible) { outline:2px solid var(--focus); outline-offset:2px }
.picker input { position:absolute; opacity:0; width:1px; height:1px }
.strip { display:grid; grid-template-columns:repeat(auto-fill,minmax(130px,1fr)); gap:12px }
.strip[hidden] { display:none }
.strip figure, figure { margin:0 }
.strip img { width:100%; height:auto; display:block; border-radius:3px }
img.small { image-rendering:pixelated }
"""

_REST = """
figure.picture { margin:14px 0 }
figure.picture img { max-width:100%; height:auto; background:#fff; border-radius:4px;
  border:1px solid var(--line) }

dl { display:grid; grid-template-columns:max-content minmax(0,1fr); gap:5px 22px; font-size:15px;
  margin:8px 0 }
dt { color:var(--soft) } dd { margin:0; overflow-wrap:anywhere }
code { font:13.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace }
dd code, .facts code { background:var(--tint); padding:2px 6px; border-radius:3px }
details { margin:12px 0 } summary { cursor:pointer; font-size:15px; padding:3px 0 }
.config { columns:2 400px; column-gap:36px; margin-top:8px }
.config table { width:100%; break-inside:avoid; margin:0 0 16px }
.config td { padding:2px 6px 2px 0; white-space:normal; overflow-wrap:anywhere; vertical-align:top;
  border-bottom:1px solid var(--line) }
.config td:first-child { color:var(--soft); width:48% }
@media print { main { max-width:none; padding:0 } .compare { display:none } }
"""

STYLE = COLOURS + _PAGE + COMPARE_STYLE + _REST

_TABLE_SCRIPT = """
'use strict';
// Sortable table: a header's button sorts, best values first; again turns the order round.
for (const table of document.querySelectorAll('table.results')) {
  const body = table.tBodies[0];
  const heads = [...table.querySelectorAll('th[data-first]')];
  heads.forEach((head, column) => head.querySelector('button').addEventListener('click', () => {
    const now = head.getAttribute('aria-sort');
    const order = now ? (now === 'ascending' ? 'descending' : 'ascending') : head.dataset.first;
    const sign = order === 'ascending' ? 1 : -1;
    const value = row => row.cells[column].dataset.value;
    const numeric = head.classList.contains('number');
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', order);
    body.append(...[...body.rows].sort((first, second) => {
      const a = value(first), b = value(second);
      if (a === '' || b === '') return (a === '') - (b === '');  // missing values stay last
      return sign * (numeric ? a - b : a.localeCompare(b));
    }));
  }));
}
"""

# `compareVersions(element)` makes a comparison of the strips of images in an element like the report's, and
# returns a function that opens one of them, with other versions at first if they are named.
COMPARE_SCRIPT = """
// Comparison: wipe between any two versions of one image.
const compareVersions = compare => {
  const strips = [...compare.querySelectorAll('.strip')];
  const stage = compare.querySelector('.stage');
  const [left, right] = compare.querySelectorAll('select');
  const pictures = strip => [...strip.querySelectorAll('img')];
  let strip = strips[0];
  const show = (select, image, badge) => {
    const from = pictures(strip).find(img => img.dataset.name === select.value);
    image.src = from.src; image.alt = from.alt; image.className = image.dataset.role;
    if (from.classList.contains('small')) image.classList.add('small');
    badge.textContent = select.value;
    stage.style.aspectRatio = from.getAttribute('width') + '/' + from.getAttribute('height');
  };
  const draw = () => {
    show(left, stage.querySelector('[data-role=front]'), stage.querySelector('.left'));
    show(right, stage.querySelector('[data-role=back]'), stage.querySelector('.right'));
  };
  const choose = (select, names, wanted) => {
    const keep = names.includes(select.value) ? select.value : wanted;
    select.replaceChildren(...names.map(name => new Option(name, name)));
    select.value = keep;
  };
  const open = (index, first, second) => {
    strip = strips[index];
    strips.forEach(each => { each.hidden = each !== strip; });
    const names = pictures(strip).map(img => img.dataset.name);
    choose(left, names, first || names.find(name => name.startsWith('source')) || names[0]);
    choose(right, names,
      second || names.find(name => name.startsWith('student')) || names[names.length - 1]);
    draw();
  };
  stage.style.setProperty('--cut', '50%');
  stage.querySelector('input').addEventListener('input', event =>
    stage.style.setProperty('--cut', event.target.value + '%'));
  left.addEventListener('change', draw);
  right.addEventListener('change', draw);
  return open;
};
"""

SCRIPT = (
    _TABLE_SCRIPT
    + COMPARE_SCRIPT
    + """
const compare = document.getElementById('compare');
if (compare) {
  const open = compareVersions(compare);
  compare.querySelectorAll('.picker input').forEach((radio, index) =>
    radio.addEventListener('change', () => open(index)));
  compare.querySelectorAll('[data-script]').forEach(part => { part.hidden = false; });
  open(0);
}
"""
)
