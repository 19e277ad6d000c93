// Says of every .scroll whether there is more to its right, for the style to show. Knows no content.
for (const box of document.querySelectorAll(".scroll")) {
  const mark = () => box.toggleAttribute("data-more", box.scrollWidth - box.clientWidth - box.scrollLeft > 1);
  const observer = new ResizeObserver(mark);
  for (const node of [box, ...box.children]) observer.observe(node);
  box.addEventListener("scroll", mark, { passive: true });
}
