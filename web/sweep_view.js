/** Puts the sweep view into the node BokehSweepView. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addPlace, change, passToCanvas, setWidget, watch } from "./lib/canvas.js";
import { within } from "./lib/dom.js";
import { after, executionIds, followOutputs, look } from "./lib/outputs.js";
import { fileUrl, uploadPicture } from "./lib/picture_files.js";
import { reaches, runOf } from "./lib/runs.js";
import { SweepView } from "./lib/view.js";
import { say } from "./lib/words.js";

const NODE = "BokehSweepView";
const FIRST_SIZE = [400, 500];
const PIVOT_LEVEL = -1;
const MIN_HEIGHT = 240;
const SCREEN_HEIGHTS = [160, 620];

/** The views of the nodes that sit in a graph: node -> view. */
const views = new Map();

async function loadInNode(node, file, pictureName) {
  const name = await uploadPicture(fileUrl(file), pictureName);
  change(() => {
    const loader = window.LiteGraph.createNode("LoadImage");
    loader.pos = [node.pos[0] + node.size[0] + 40, node.pos[1]];
    node.graph.add(loader);
    const widget = loader.widgets.find((widget) => widget.name === "image");
    const { values } = widget.options;
    if (Array.isArray(values) && !values.includes(name)) values.push(name);
    setWidget(loader, widget, name);
  });
}

function addView(node) {
  let isNew = true;
  const level = node.widgets.find((widget) => widget.name === "level");
  const used = () => (level.value === PIVOT_LEVEL ? null : level.value);
  const view = new SweepView({
    // A preview brings its picture along; pages may forbid to fetch what has no address on the server.
    pictureUrl: ({ jpeg, ...file }) =>
      jpeg
        ? new Blob([Uint8Array.from(atob(jpeg), (character) => character.charCodeAt(0))])
        : fileUrl(file) + (app.getPreviewFormatParam?.() ?? ""),
    originalUrl: fileUrl,
    mayStart: () => !app.canvas.read_only,
    onLook: (seen) => look(node, seen),
    onUse: (value) => {
      change(() => (level.value = value));
      view.used = value;
    },
    onInput: (file, name) => loadInNode(node, file, name),
  });
  // The pictures are sent for apps and the queue as well.
  node.hideOutputImages = true;
  node.onDrawBackground = () => {};
  passToCanvas(view.element);
  watch(node, () => view.setZoom(app.canvas.ds.scale));
  addPlace(node, "sweep view", "bokeh_sweep_view", view.element, MIN_HEIGHT);
  node.setSize(FIRST_SIZE);
  after(level, "callback", () => (view.used = used()));

  followOutputs(node, ({ bokeh_sweep: [sweep] = [] }) => {
    if (!sweep) return false;
    view.show(sweep, look(node));
    view.used = used();
    if (isNew) fit(node, view);
    isNew = false;
    return true;
  });
  after(node, "onConfigure", () => (isNew = false));
  after(node, "onAdded", () => views.set(node, view));
  after(node, "onRemoved", () => {
    views.delete(node);
    view.dispose();
  });
}

/** Turn the views in a node's graph to a level; how many have it. */
export function turnViews(node, value) {
  return [...views].filter(([other, view]) => other.graph === node.graph && view.turnTo(value)).length;
}

/** Give a node that nobody has sized yet the shape of its pictures. */
function fit(node, view) {
  const { clientWidth, clientHeight } = view.screen.element;
  if (!clientWidth) return;
  const wanted = within(clientWidth * view.tallness, ...SCREEN_HEIGHTS);
  node.setSize([node.size[0], Math.round(node.size[1] + wanted - clientHeight)]);
}

app.registerExtension({
  name: "Bokeh.SweepView",
  setup() {
    let ended;
    api.addEventListener("bokeh_preview", async ({ detail }) => {
      const run = await runOf(detail.prompt_id);
      for (const [node, view] of run && ended !== detail.prompt_id ? views : []) {
        const isShown = executionIds(run, node).some((id) => reaches(run.prompt, detail.node, id));
        if (isShown) view.preview(detail.sweep, say("Preview, step {step} of {steps}", detail));
      }
    });
    for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
      api.addEventListener(end, ({ detail }) => {
        ended = detail.prompt_id;
        // After a success the pictures come.
        if (end !== "execution_success") views.forEach((view) => view.endPreview());
      });
    }
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) addView(node);
  },
});
