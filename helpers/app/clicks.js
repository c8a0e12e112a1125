// A click on a reading, arrow keys among readings, and the focus after a table was drawn anew; in Gradio's js_on_load.
element.addEventListener('click', event => {
  const button = event.target.closest('[data-cell]');
  if (button) trigger('click', {cell: button.dataset.cell, side: button.dataset.side});
});
element.addEventListener('keydown', event => {
  const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  const start = event.target.closest('td');
  if (!step || !start) return;
  let column = start.cellIndex + step[0], row = start.parentElement.rowIndex + step[1];
  const rows = start.closest('table').rows;
  for (; rows[row]?.cells[column]; column += step[0], row += step[1]) {
    const button = rows[row].cells[column].querySelector('button');
    if (button) { button.focus(); event.preventDefault(); return; }
  }
});
let focused = '';
element.addEventListener('focusin', event => { focused = event.target.dataset?.focus || ''; });
element.addEventListener('focusout', event => { if (event.relatedTarget) focused = ''; });
watch('value', () => {
  if (focused && document.activeElement === document.body)
    [...element.querySelectorAll('[data-focus]')].find(button => button.dataset.focus === focused)?.focus();
});
