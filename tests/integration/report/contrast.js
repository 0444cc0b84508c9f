// The least contrast of any text on the page with what lies behind it, and the element (WCAG 2.1, 1.4.3).
(() => {
  const selector =
    "p, dd, dt, td, th, li, h1, h2, h3, a, figcaption, summary, .badge, .y-axis span, .x-axis span, .mark-label";
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const luminance = (color) => {
    const [r, g, b] = color.match(/[\d.]+/g).slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const isTransparent = (color) => color.startsWith("rgba") && color.endsWith(", 0)");
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (!isTransparent(color)) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const contrast = (element) => {
    const [a, b] = [getComputedStyle(element).color, behind(element)].map(luminance);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  return [...document.querySelectorAll(selector)]
    .filter((element) => element.textContent.trim())
    .map((element) => [contrast(element), element.outerHTML.slice(0, 100)])
    .reduce((least, next) => (next[0] < least[0] ? next : least));
})();
