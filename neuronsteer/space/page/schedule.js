// A timeline: where which label takes over, counted in generated tokens.

const escape = (label) => label.replace(/[,:@*%=]/g, (sign) => "%" + sign.charCodeAt(0).toString(16).toUpperCase());
const unescape = (text) => { try { return decodeURIComponent(text); } catch { return text; } };

/** Returns `[{at, label}]`, or null for notation that cannot be drawn before it happens. */
export function parse(text, known) {
  const points = [];
  for (const [i, part] of text.split(",").map((each) => each.trim()).entries()) {
    const found = /^(?:(\d+):)?([^:@*~=]+)$/.exec(part);
    if (!found || (i > 0 && found[1] === undefined)) return null;
    const label = found[2] === "-" ? null : unescape(found[2]);
    if (label !== null && !known.includes(label)) return null;
    points.push({ at: Number(found[1] ?? 0), label });
  }
  if (points[0]?.at > 0) points.unshift({ at: 0, label: null });
  const rising = points.every((point, i) => i === 0 || point.at > points[i - 1].at);
  return rising && points.length ? points : null;
}

export function write(points) {
  return points.map(({ at, label }, i) => (i ? `${at}:` : "") + (label === null ? "-" : escape(label))).join(",");
}

/** Runs `{start, end, label}` over `tokens` tokens. */
export function runs(points, tokens) {
  return points.map(({ at, label }, i) => ({ start: at, end: Math.min(points[i + 1]?.at ?? tokens, tokens), label }))
    .filter(({ start, end }) => start < end);
}

/** Moves point `i`, never past its neighbours. */
export function moved(points, i, at, tokens) {
  const low = (points[i - 1]?.at ?? -1) + 1;
  const high = (points[i + 1]?.at ?? tokens) - 1;
  return points.map((point, j) => (j === i ? { ...point, at: Math.max(low, Math.min(high, at)) } : point));
}

export const relabelled = (points, i, label) => tidy(points.map((point, j) => (j === i ? { ...point, label } : point)));
export const without = (points, i) => tidy(points.filter((_, j) => j !== i));

/** Lets `label` take over at `at`, until the next switch. */
export function inserted(points, at, label) {
  const kept = points.filter((point) => point.at !== at || at === 0);
  if (at === 0) return tidy([{ at: 0, label }, ...kept.slice(1)]);
  return tidy([...kept, { at, label }].sort((a, b) => a.at - b.at));
}

function tidy(points) {
  const found = points.filter((point, i) => i === 0 || point.label !== points[i - 1].label);
  if (found.length && found[0].at !== 0) found[0] = { ...found[0], at: 0 };
  return found;
}
