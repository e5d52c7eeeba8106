// What is wrong with the page that this is called in, as sentences. `expected` has the width in CSS
// pixels, the texts that have to be there, the nodes by runtime, and whether the medium is paper.
(expected) => {
  const wrong = [];
  const SMALLEST = 12; // CSS pixels: the height of letters that can be read
  const CONTRAST = 4.5; // WCAG 2.2, 1.4.3
  const TARGET = 24; // CSS pixels: WCAG 2.2, 2.5.8
  const plain = (text) => text.replace(/\s+/gu, " ").trim();
  const shown = (text) => JSON.stringify(plain(text).slice(0, 60));
  const visible = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });

  // What a letter is drawn in, and on.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const colour = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
    return { rgb: [red, green, blue], alpha: alpha / 255 };
  };
  const over = (top, bottom) =>
    top.rgb.map((part, index) => part * top.alpha + bottom[index] * (1 - top.alpha));
  // Paper is white, and printers leave backgrounds out.
  const background = (element) => {
    if (expected.paper || !element) return [255, 255, 255];
    const own = colour(getComputedStyle(element).backgroundColor);
    return own.alpha === 1 ? own.rgb : over(own, background(element.parentElement));
  };
  const luminance = (rgb) => {
    const linear = rgb.map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };

  // Nothing is wider than the screen, or cut off at its edge.
  const root = document.documentElement;
  if (root.scrollWidth > expected.width)
    wrong.push(`it is ${root.scrollWidth} px wide, and the view ${expected.width}`);
  for (const element of document.body.querySelectorAll("*")) {
    const box = element.getBoundingClientRect();
    if (box.width > 0 && (box.right > expected.width + 0.5 || box.left < -0.5))
      wrong.push(`<${element.localName}> goes over the edge: ${shown(element.textContent)}`);
    const style = getComputedStyle(element);
    const cut = style.overflowX !== "visible" && element.scrollWidth > element.clientWidth + 1;
    if (cut && element.clientWidth > 0)
      wrong.push(`<${element.localName}> is cut off: ${shown(element.textContent)}`);
  }

  // Each piece of text can be read.
  const letters = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let pieces = 0;
  for (let text = letters.nextNode(); text; text = letters.nextNode()) {
    const element = text.parentElement;
    if (!plain(text.data) || element.closest("title") || !visible(element)) continue;
    pieces += 1;
    const style = getComputedStyle(element);
    if (parseFloat(style.fontSize) < SMALLEST)
      wrong.push(`text of ${style.fontSize}: ${shown(text.data)}`);
    const behind = background(element);
    const ratio = contrast(over(colour(style.color), behind), behind);
    if (ratio < CONTRAST)
      wrong.push(`a contrast of ${ratio.toFixed(2)}: ${shown(text.data)}, ${style.color} on rgb(${behind})`);
  }
  if (pieces === 0) wrong.push("there is no text");

  // What the report has, the page shows.
  const page = plain(document.body.innerText);
  for (const text of expected.texts)
    if (!page.includes(plain(text))) wrong.push(`it does not show ${JSON.stringify(text)}`);

  // Links lead to something, and a thumb hits the one that it means.
  const links = [...document.links].filter(visible);
  const boxes = links.map((link) => link.getBoundingClientRect());
  links.forEach((link, index) => {
    const aim = link.getAttribute("href");
    if (!aim.startsWith("#") || !document.getElementById(aim.slice(1)))
      wrong.push(`a link leads nowhere: ${aim}`);
    if (expected.paper) return;
    const box = boxes[index];
    if (box.width < TARGET || box.height < TARGET)
      wrong.push(`a link of ${box.width.toFixed()} × ${box.height.toFixed()} px: ${shown(link.textContent)}`);
    const over = boxes.findIndex(
      (other, place) => place > index && box.left < other.right - 0.5 && other.left < box.right - 0.5
        && box.top < other.bottom - 0.5 && other.top < box.bottom - 0.5,
    );
    if (over >= 0)
      wrong.push(`links overlap: ${shown(link.textContent)} and ${shown(links[over].textContent)}`);
  });
  const names = [...document.querySelectorAll("[id]")].map((element) => element.id);
  if (new Set(names).size !== names.length) wrong.push("two elements have the same id");

  // Headings are in order, as screen readers walk through them.
  const levels = [...document.querySelectorAll("h1, h2, h3, h4")].map((one) => Number(one.localName[1]));
  levels.forEach((level, index) => {
    if (level > (levels[index - 1] ?? 0) + 1) wrong.push(`a heading of level ${level} after ${levels[index - 1]}`);
  });

  // The cluster: in each runtime's group one drawn mark for each of its nodes, with its name.
  const groups = {};
  for (const group of document.querySelectorAll("[data-runtime]")) {
    const marks = [...group.querySelectorAll("svg[role=img]")].filter((mark) => {
      const box = mark.getBoundingClientRect();
      return visible(mark) && box.width >= 16 && box.height >= 16;
    });
    if (!group.innerText.includes(group.dataset.runtime)) wrong.push(`${group.dataset.runtime} is not named`);
    groups[group.dataset.runtime] = marks.map((mark) => mark.querySelector("title").textContent.split(":")[0]).sort();
  }
  const sorted = (object) => JSON.stringify(Object.entries(object).sort());
  if (sorted(groups) !== sorted(expected.nodes))
    wrong.push(`it draws ${sorted(groups)}, and not ${sorted(expected.nodes)}`);

  if (document.scripts.length > 0) wrong.push("it has a script");
  const policy = document.querySelector("meta[http-equiv=Content-Security-Policy]")?.content ?? "";
  if (!policy.startsWith("default-src 'none'")) wrong.push(`its Content-Security-Policy is ${JSON.stringify(policy)}`);
  return wrong;
}
