// Numbers as people read them. Knows no part of the page.

// Up to three digits: 0, 0.4, 7.2, 140, 1.2k, 35k, 1.4M; what is not zero never looks like it.
function shortNumber(value) {
  if (value > 0 && value < 0.05) return "<0.1";
  if (value >= 999.5e3) return `${threeDigits(value / 1e6)}M`;
  if (value >= 999.5) return `${threeDigits(value / 1e3)}k`;
  return threeDigits(value);
}

function threeDigits(value) {
  return value >= 9.95 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1);
}

function percent(share) {
  return `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)} %`;
}

function milliseconds(nanoseconds) {
  const value = nanoseconds / 1e6;
  if (value === 0) return "–";
  return `${value < 10 ? value.toFixed(2) : value.toFixed(0)} ms`;
}

// A round number that is at least `value`, for the end of an axis.
function roundUp(value) {
  if (value <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * unit).find((end) => end >= value * 0.9999);
}
