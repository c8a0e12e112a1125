// Where the ladder stands: beside the table if there is room, else in the row that is left free under its cell. The
// table's frame scrolls by itself only if the table is wider than the page; then its headings stay on top of the frame.
const frame = element.closest('.frame'), box = frame.querySelector('.opened-box');
const BESIDE = 480, COLUMN = 150;
const place = () => {
  const table = element.querySelector('table.readings'), free = element.querySelector('tr.opened > td');
  const isOpen = Boolean(box.querySelector('.ladder')), columns = table?.tBodies[0]?.rows[0]?.cells.length || 0;
  const isBeside = isOpen && frame.clientWidth - BESIDE >= COLUMN * (columns - 1) + 60;
  frame.classList.toggle('ladder-beside', isBeside);
  frame.classList.toggle('ladder-under', isOpen && !isBeside && Boolean(free));
  frame.classList.toggle('is-wide', Boolean(table) && table.offsetWidth > table.parentElement.clientWidth + 1);
  if (frame.classList.contains('is-wide')) frame.tabIndex = 0; else frame.removeAttribute('tabindex');
  box.style.top = box.style.left = box.style.width = '';
  if (!frame.classList.contains('ladder-under')) return;
  box.style.width = frame.clientWidth + 'px';
  free.style.height = box.offsetHeight + 'px';
  const move = free.getBoundingClientRect().top - frame.getBoundingClientRect().top;
  box.style.top = move + frame.scrollTop + 'px';
  box.style.left = frame.scrollLeft + 'px';
};
frame.addEventListener('scroll', () => { box.style.left = frame.scrollLeft + 'px'; });
new MutationObserver(place).observe(element, {childList: true, subtree: true});
const sizes = new ResizeObserver(place);
sizes.observe(box);
sizes.observe(frame);
place();
