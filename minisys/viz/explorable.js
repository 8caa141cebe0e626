// Starts the explorables of a static page: each figure carries its ES module and its JSON. Every figure brings
// this script along; the first to run starts them all, the others find none left.

for (const figure of document.querySelectorAll("figure.explorable:not([data-started])")) {
  figure.dataset.started = "";
  start(figure).catch((error) => {
    console.error(error);
    const note = document.createElement("p");
    note.textContent = `The interactive figure could not start (${error.message}). The picture above stands in for it.`;
    figure.querySelector(".explorable-view").append(note);
  });
}

async function start(figure) {
  const part = (name) => JSON.parse(figure.querySelector(`:scope > script[data-part="${name}"]`).textContent);
  // A Blob URL needs no server, so that the page also works from a file.
  const url = URL.createObjectURL(new Blob([part("module")], { type: "text/javascript" }));
  const { default: module } = await import(url);
  URL.revokeObjectURL(url);
  await module.render({ model: standIn(part("model")), el: figure.querySelector(".explorable-view") });
}

// The part of anywidget's model that modules use, without a kernel behind it.
function standIn(values) {
  const listeners = new Map();
  return {
    get: (name) => values[name],
    set(name, value) {
      values[name] = value;
      for (const listener of listeners.get(`change:${name}`) ?? []) listener();
    },
    on: (event, listener) => listeners.set(event, [...(listeners.get(event) ?? []), listener]),
    save_changes() {},
  };
}
