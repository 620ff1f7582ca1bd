// The page of the server. Everything that comes from outside is set as text, never as markup.

const byId = (id) => document.getElementById(id);
const KEY = "liveedit-key";
const PAGE_SIZE = 20;
let image = null; // data URI of the image that is asked about
let offset = 0;
let asking = null; // AbortController of the question in progress

// ---- talking to the server

function headers(extra) {
  const key = sessionStorage.getItem(KEY);
  return { ...(key ? { Authorization: `Bearer ${key}` } : {}), ...extra };
}

async function call(path, { method = "GET", body, signal } = {}) {
  const options = { method, signal, headers: headers(body ? { "Content-Type": "application/json" } : {}) };
  if (body) options.body = JSON.stringify(body);
  const response = await fetch(path, options);
  if (response.ok) return response;
  let message = `${response.status} ${response.statusText}`;
  try { message = (await response.json()).error.message; } catch { /* not ours */ }
  if (response.status === 401) byId("key-dialog").showModal();
  throw new Error(message);
}

const json = async (path, options) => (await call(path, options)).json();

function alertUser(text) {
  byId("alert").textContent = text;
  byId("alert").hidden = !text;
}

const guarded = (action) => async (event) => {
  event?.preventDefault?.();
  alertUser("");
  try { await action(event); } catch (error) {
    if (error.name !== "AbortError") alertUser(error.message);
  }
};

// ---- building elements

function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function button(text, action, name = text) {
  const element = make("button", text, { type: "button", "aria-label": name });
  element.addEventListener("click", guarded(action));
  return element;
}

async function showThumbnail(element, editId) {
  try {
    const blob = await (await call(`/v1/edits/${editId}/thumbnail`)).blob();
    element.src = URL.createObjectURL(blob);
    element.addEventListener("load", () => URL.revokeObjectURL(element.src), { once: true });
  } catch { element.alt = "no image"; }
}

function card(edit, ...parts) {
  const item = make("li");
  const about = edit.has_image ? `Image of the edit: ${edit.target ?? edit.id}` : "Holds without an image";
  const picture = make("img", "", { alt: about });
  const text = make("div");
  text.append(make("p", edit.prompt ?? "(not in this store's log)"), make("p", `→ ${edit.target ?? edit.id.slice(0, 12)}`), ...parts);
  item.append(picture, text);
  if (edit.has_image) showThumbnail(picture, edit.id);
  return item;
}

const when = (text) => new Date(text).toLocaleString();

// ---- ask

function useImage(file) {
  if (!file) return;
  const reader = new FileReader();
  reader.addEventListener("load", () => setImage(reader.result));
  reader.readAsDataURL(file);
}

function setImage(uri) {
  image = uri;
  byId("preview").hidden = byId("clear").hidden = !uri;
  byId("drop-hint").hidden = Boolean(uri);
  if (uri) byId("preview").src = uri; else byId("preview").removeAttribute("src");
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const content = JSON.parse(data);
      if (content.error) throw new Error(content.error.message);
      yield content;
    }
  }
}

async function answer(model, question, output, signal, onExplained) {
  output.textContent = "…";
  output.setAttribute("aria-busy", "true");
  const content = [{ type: "text", text: question }];
  if (image) content.unshift({ type: "image_url", image_url: { url: image } });
  const response = await call("/v1/chat/completions", {
    method: "POST",
    signal,
    body: { model, messages: [{ role: "user", content }], stream: true, liveedit: { explain: true } },
  });
  let text = "";
  for await (const chunk of events(response)) {
    if (chunk.liveedit) onExplained(chunk.liveedit);
    text += chunk.choices[0]?.delta.content ?? "";
    output.textContent = text || "…";
  }
  output.textContent = text || "(no words)";
  output.removeAttribute("aria-busy");
}

async function ask() {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const question = byId("question").value.trim();
  byId("fired").replaceChildren();
  byId("fired-box").hidden = true;
  await Promise.all([
    answer("liveedit@unedited", question, byId("before"), signal, () => {}),
    answer("liveedit", question, byId("after"), signal, showFired),
  ]);
}

function showFired(about) {
  byId("after-version").textContent = `version ${about.version}, ${about.num_edits} edits`;
  byId("fired-box").hidden = false;
  byId("fired-none").hidden = about.edits.length > 0;
  byId("fired").replaceChildren(...about.edits.map((edit) => {
    const weight = make("p", "weight ");
    const percent = `${Math.round(edit.weight * 100)} %`;
    weight.append(make("meter", "", { min: 0, max: 1, value: edit.weight, "aria-label": `weight ${percent}` }), ` ${percent}`);
    return card(edit, weight);
  }));
}

// ---- teach

async function teach() {
  const prompt = byId("question").value.trim();
  if (!prompt) throw new Error("Write the question above first.");
  const body = {
    image,
    prompt,
    target: byId("target").value.trim(),
    also_asked: byId("wordings").value.split("\n").map((line) => line.trim()).filter(Boolean),
    submitter: byId("submitter").value.trim(),
  };
  const posted = await json("/v1/edits", { method: "POST", body });
  const { id, is_removed: isRemoved } = posted.data[0];
  const told = byId("taught");
  if (isRemoved) {
    told.textContent = "This edit was removed before; restore it in the list of edits.";
    return;
  }
  told.textContent = posted.is_taught_here ? "Accepted; being taught…" : "Accepted; an editing job (--follow) teaches it.";
  for (let tries = 0; posted.is_taught_here && tries < 120; tries += 1) {
    const edit = await json(`/v1/edits/${id}`);
    if (edit.state !== "pending") {
      const reason = edit.history.findLast((event) => event.event === "refused")?.reason ?? "";
      told.textContent = edit.state === "held" ? "Taught. Asking again…" : `${edit.state}: ${reason}`;
      if (edit.state === "held") {
        await waitForAnswering(edit.history);
        await ask();
        told.textContent = "Taught.";
      }
      break;
    }
    await pause(250);
  }
  await showState();
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function waitForAnswering(history) {
  const version = Math.max(0, ...history.map((event) => Number(event.version) || 0));
  for (let tries = 0; tries < 20; tries += 1) {
    const status = await json("/v1/status");
    if (status.liveedit.registered || status.liveedit.bank_version >= version) return;
    await pause(200);
  }
}

// ---- edits

async function listEdits(isMore) {
  offset = isMore ? offset : 0;
  const query = new URLSearchParams({ q: byId("query").value, submitter: byId("by").value, offset, limit: PAGE_SIZE });
  if (byId("which").value) query.set("state", byId("which").value);
  showEdits(await json(`/v1/edits?${query}`), isMore);
}

async function listLike() {
  if (!image) throw new Error("Choose an image under Ask first.");
  showEdits(await json("/v1/edits/search", { method: "POST", body: { image, limit: PAGE_SIZE } }), false);
}

function showEdits(page, isMore) {
  const rows = page.data.map(editRow);
  if (isMore) byId("edit-list").append(...rows); else byId("edit-list").replaceChildren(...rows);
  byId("found").textContent = `${page.total} edits`;
  byId("more").hidden = !page.has_more;
  offset = page.next_offset ?? 0;
}

function editRow(edit) {
  const facts = make("p");
  const likeness = edit.image_similarity === undefined ? "" : ` · image similarity ${edit.image_similarity}`;
  facts.append(make("span", edit.state, { class: `tag ${edit.state}` }), `${edit.submitter || "unnamed"}, ${when(edit.submitted_at)}${likeness}`);
  const actions = make("div", "", { class: "row" });
  const history = make("ul", "", { hidden: "" });
  actions.append(button("History", () => showHistory(edit.id, history), `History of ${edit.target}`));
  if (edit.state === "removed") {
    actions.append(button("Restore", () => change(edit, "restore"), `Restore ${edit.target}`));
  } else {
    actions.append(button("Remove", () => change(edit, "remove"), `Remove ${edit.target}`));
  }
  return card(edit, facts, actions, history);
}

async function showHistory(id, list) {
  list.hidden = !list.hidden;
  if (list.hidden) return;
  const { history } = await json(`/v1/edits/${id}`);
  list.replaceChildren(...history.map((event) => {
    const by = event.author ? ` by ${event.author}` : "";
    const version = event.version ? ` v${event.version}` : "";
    return make("li", `${when(event.time)}: ${event.event}${version}${by}${event.reason ? ` — ${event.reason}` : ""}`);
  }));
}

async function change(edit, kind) {
  const reason = await askReason(kind === "remove" ? "Remove this edit?" : "Restore this edit?");
  if (!reason) return;
  const path = `/v1/edits/${edit.id}${kind === "restore" ? "/restore" : ""}`;
  await json(path, { method: kind === "remove" ? "DELETE" : "POST", body: { reason, author: "page" } });
  await listEdits(false);
}

function askReason(title) {
  const dialog = byId("reason-dialog");
  byId("reason-title").textContent = title;
  byId("reason").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok" ? byId("reason").value : ""), { once: true });
  });
}

// ---- versions

async function listVersions() {
  const { data } = await json("/v1/versions");
  byId("version-list").replaceChildren(...data.map((version, place) => versionRow(version, data[place + 1])));
  if (!data.length) byId("version-list").append(make("li", "There is no bank yet: teach something."));
}

function versionRow(version, before) {
  const item = make("li");
  const title = make("h3", `${version.id} `);
  const flags = { champion: version.is_champion, "previous champion": version.is_previous_champion, "answering now": version.is_answering };
  for (const [name, isOn] of Object.entries(flags)) if (isOn) title.append(make("span", name, { class: "tag champion" }));
  for (const tag of version.tags) title.append(make("span", tag, { class: "tag" }));
  const by = version.author ? ` by ${version.author}` : "";
  const text = make("p", `${version.kind}, ${when(version.committed_at)}${by}: ${version.num_edits} edits (+${version.num_added} −${version.num_removed}). ${version.message}`);
  const details = make("ul", "", { hidden: "" });
  const actions = make("div", "", { class: "row" });
  if (before) actions.append(button("What changed", () => showDiff(version, before, details), `What changed in ${version.id}`));
  actions.append(button("Nightly metrics", () => showMetrics(version, details), `Nightly metrics of ${version.id}`));
  actions.append(button("Promote", () => promote(version), `Promote ${version.id}`));
  item.append(title, text, actions, details);
  return item;
}

async function showDiff(version, before, list) {
  const diff = await json(`/v1/versions/${version.version}/diff?base=${before.version}`);
  const line = (sign, row) => make("li", `${sign} ${row.prompt ?? row.id} → ${row.target ?? ""}`);
  const rows = [
    ...diff.added.map((row) => line("+", row)),
    ...diff.removed.map((row) => line("−", row)),
    ...diff.superseded.map(({ old, new: now }) => line(`~ ${old.target ?? old.id.slice(0, 12)} became`, now)),
  ];
  list.replaceChildren(...(rows.length ? rows : [make("li", "the same edits")]));
  list.hidden = false;
}

async function showMetrics(version, list) {
  const found = await json(`/v1/versions/${version.version}/evaluation`);
  const rows = Object.entries(found.metrics).map(([name, value]) => make("li", `${name}: ${(100 * value).toFixed(1)} %`));
  if (found.evaluated_at) rows.unshift(make("li", `evaluated ${when(found.evaluated_at)}`));
  list.replaceChildren(...(rows.length ? rows : [make("li", "never evaluated by a nightly run")]));
  list.hidden = false;
}

async function decide(title, path, done) {
  const reason = await askReason(title);
  if (!reason) return;
  byId("decided").textContent = "checking every gate…";
  try {
    await json(path, { method: "POST", body: { reason, author: "page" } });
    byId("decided").textContent = done;
  } catch (error) {
    byId("decided").textContent = "";
    throw error;
  }
  await Promise.all([listVersions(), showState()]);
}

const promote = (version) => decide(`Promote ${version.id}?`, `/v1/versions/${version.version}/promote`, `${version.id} is the champion.`);
const rollBack = () => decide("Roll back?", "/v1/versions/rollback", "The previous champion answers again.");

// ---- frame

async function showState() {
  const status = await json("/v1/status");
  const problem = status.problem ? ` — ${status.problem}` : "";
  byId("state").textContent = `answering with ${status.liveedit.version}, ${status.liveedit.num_edits} edits${problem}`;
}

const onShown = { ask: showState, edits: () => listEdits(false), versions: listVersions };

function show(name) {
  for (const view of ["ask", "edits", "versions"]) {
    byId(view).hidden = view !== name;
    const tab = document.querySelector(`nav [data-view=${view}]`);
    if (view === name) tab.setAttribute("aria-current", "page"); else tab.removeAttribute("aria-current");
  }
  return onShown[name]();
}

function on(id, event, action) { byId(id).addEventListener(event, guarded(action)); }

for (const tab of document.querySelectorAll("nav [data-view]")) tab.addEventListener("click", guarded(() => show(tab.dataset.view)));
on("ask-form", "submit", ask);
on("teach-form", "submit", teach);
on("search-form", "submit", () => listEdits(false));
on("more", "click", () => listEdits(true));
on("like", "click", listLike);
on("refresh", "click", listVersions);
on("rollback", "click", rollBack);
on("clear", "click", () => setImage(null));
byId("file").addEventListener("change", (event) => useImage(event.target.files[0]));
byId("camera").addEventListener("change", (event) => useImage(event.target.files[0]));
byId("preview").addEventListener("error", () => { if (image) { setImage(null); alertUser("This file is not an image that the browser can show."); } });
document.addEventListener("paste", (event) => useImage([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
for (const kind of ["dragover", "dragleave", "drop"]) {
  byId("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") useImage(event.dataTransfer.files[0]);
  });
}
on("key-button", "click", () => byId("key-dialog").showModal());
byId("key-dialog").addEventListener("close", guarded(async () => {
  const dialog = byId("key-dialog");
  if (dialog.returnValue === "ok") {
    const key = byId("key").value;
    if (key) sessionStorage.setItem(KEY, key); else sessionStorage.removeItem(KEY);
    await showState();
  }
  byId("key").value = "";
}));
guarded(showState)();
