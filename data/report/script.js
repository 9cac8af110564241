"use strict";

// Theme: the system's, until the reader chooses; the choice is kept where the browser allows it.
const theme = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const remembered = { read() { try { return localStorage.getItem("theme"); } catch { return null; } },
                     write(name) { try { localStorage.setItem("theme", name); } catch { /* kept for this visit only */ } } };
function paint(name) {
  document.documentElement.dataset.theme = name;
  theme.textContent = name === "dark" ? "Light" : "Dark";
  theme.setAttribute("aria-label", `Switch to the ${theme.textContent.toLowerCase()} theme`);
}
paint(remembered.read() || (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () => { if (!remembered.read()) paint(dark.matches ? "dark" : "light"); });
theme.hidden = false;
theme.addEventListener("click", () => {
  const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  remembered.write(name);
  paint(name);
});

// Contents: folded on a narrow screen, and the chapter in view is marked.
const contents = document.querySelector("nav details");
if (matchMedia("(max-width: 62rem)").matches) contents.open = false;
const links = new Map([...contents.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
const watch = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(entry.target.id)?.setAttribute("aria-current", "true");
  }
}, { rootMargin: "-10% 0px -80% 0px" });
document.querySelectorAll("main > section").forEach((section) => watch.observe(section));

// Tables: a click on a column's name sorts by it, a second click reverses the order; "–" stays last.
function valueOf(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text.replace(/[,≤]/g, "").replace("−", "-"));
  return Number.isNaN(number) ? text : number;
}
function sort(table, column, down) {
  const last = table.closest(".outside") ? [] : [...table.tBodies[0].querySelectorAll(".strong")]; // a mean stays at the end
  const rows = [...table.tBodies[0].rows].filter((row) => !last.includes(row));
  const numeric = table.tHead.rows[0].cells[column].classList.contains("number");
  rows.sort((one, other) => {
    const [a, b] = [valueOf(one, column), valueOf(other, column)];
    if (numeric && (a === "–" || b === "–")) return (a === "–") - (b === "–");
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return down ? -order : order;
  });
  table.tBodies[0].append(...rows, ...last);
}
document.querySelectorAll("table.sortable").forEach((table) => {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if ("unsorted" in head.dataset) return; // versions are not numbers, and targets have several units
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.title = "Sort by this column";
    head.append(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const down = before ? before === "ascending" : head.classList.contains("number");
      [...table.tHead.rows[0].cells].forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(table, column, down);
    });
  });
});

// Pictures: a click opens one over the page, a click on it shows it pixel by pixel, as a narrow screen does at once.
const viewer = document.getElementById("viewer");
const [large, caption] = [viewer.querySelector("img"), viewer.querySelector("p")];
document.querySelectorAll(".enlarge").forEach((button) => button.addEventListener("click", () => {
  const picture = button.querySelector("img");
  large.src = picture.src;
  large.alt = caption.textContent = picture.alt;
  viewer.classList.toggle("whole", matchMedia("(max-width: 44rem)").matches);
  viewer.showModal();
}));
large.addEventListener("click", () => viewer.classList.toggle("whole"));
viewer.querySelector(".close").addEventListener("click", () => viewer.close());
viewer.addEventListener("click", (event) => { if (event.target !== large) viewer.close(); });

// Paper shows everything that is folded on the screen.
const folded = () => document.querySelectorAll("details:not([open])");
let opened = [];
addEventListener("beforeprint", () => { opened = [...folded()]; opened.forEach((fold) => { fold.open = true; }); });
addEventListener("afterprint", () => opened.forEach((fold) => { fold.open = false; }));

// Viewer: for a scene and a prompt, each method's heat map above its mask.
const explorer = document.getElementById("explorer");
if (explorer) {
  const { methods, scenes } = JSON.parse(document.getElementById("explorer-data").textContent);
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const picture = (kind, bytes, text = "") => {
    const image = new Image();
    image.src = `data:image/${kind};base64,${bytes}`;
    image.alt = text;
    return image;
  };
  const choices = (group, items, pick) => { // radio buttons: arrow keys move between them
    const box = explorer.querySelector(`.${group}`);
    box.querySelectorAll("label").forEach((label) => label.remove());
    items.forEach((content, number) => {
      const label = document.createElement("label");
      const button = Object.assign(document.createElement("input"), { type: "radio", name: group, checked: number === 0 });
      button.addEventListener("change", () => pick(number));
      label.append(button, ...content);
      box.append(label);
    });
  };
  const view = (title, layers, told) => {
    const figure = document.createElement("figure");
    const frame = Object.assign(document.createElement("div"), { className: "layers" });
    frame.append(...layers);
    const name = Object.assign(document.createElement("figcaption"), { textContent: told });
    name.prepend(Object.assign(document.createElement("strong"), { textContent: title }), " ");
    figure.append(frame, name);
    return figure;
  };
  const layer = (image, kind) => { image.className = kind; return image; };
  const show = (scene, prompt) => {
    const found = Object.entries(prompt.methods);
    const heats = found.map(([method, says]) => view(methods[method],
      [layer(picture("jpeg", scene.image), "quiet"), layer(picture("png", says.heat, `Heat map of ${methods[method]} for “${prompt.name}”`), "heat")],
      `cosine ${says.low.toFixed(2)} to ${says.high.toFixed(2)}`.replaceAll("-", "−")));
    const masks = found.map(([method, says]) => view(methods[method],
      [picture("jpeg", scene.image), layer(picture("png", says.mask, `Mask of ${methods[method]} for “${prompt.name}”`), "mask")],
      prompt.present ? `IoU ${percent(says.iou)}` : `${percent(says.share)} of the pixels, all wrong`));
    const truth = view("Truth", [picture("jpeg", scene.image), layer(picture("png", prompt.truth, `True mask of “${prompt.name}”`), "mask")],
      prompt.present ? "" : "not in this scene");
    explorer.querySelector(".views").replaceChildren(view("Scene", [picture("jpeg", scene.image, "The scene")], ""), ...heats, truth, ...masks);
    explorer.querySelector(".told").textContent = `“${prompt.name}”${prompt.present ? "" : " is not in this scene"}: `
      + found.map(([method, says]) => `${methods[method]} ${prompt.present ? `IoU ${percent(says.iou)}` : `takes ${percent(says.share)} of the pixels for it`}`).join(", ") + "."
      + (scene.credit ? ` Photo: ${scene.credit}` : "");
  };
  const open = (scene) => {
    choices("prompts", scene.prompts.map((prompt) => prompt.present ? [prompt.name]
      : [prompt.name, Object.assign(document.createElement("small"), { textContent: "not there" })]),
    (number) => show(scene, scene.prompts[number]));
    show(scene, scene.prompts[0]);
  };
  choices("scenes", scenes.map((scene, number) => [picture("jpeg", scene.image, `Scene ${number + 1}`)]), (number) => open(scenes[number]));
  explorer.style.setProperty("--columns", Object.keys(methods).length + 1);
  open(scenes[0]);
  explorer.hidden = false;
}
