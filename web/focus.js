/** Puts the picture in which focus is chosen into its node. */

import { app } from "../../scripts/app.js";
import { addPlace, change, passToCanvas, setWidget, watch } from "./lib/canvas.js";
import { mapOfGrey, mapOfRun, pictureOf, sameScene } from "./lib/focus_files.js";
import { FocusView } from "./lib/focus_view.js";
import { after, followOutputs } from "./lib/outputs.js";
import { fileUrl } from "./lib/picture_files.js";
import { say } from "./lib/words.js";

const NODE = "BokehFocus";
const FIRST_WIDTH = 420;
const MIN_HEIGHT = 320;

/** Address of the file of a Load Image in front of an input, null if something else stands there. */
function loadedBefore(node, name) {
  const slot = node.inputs?.findIndex((input) => input.name === name) ?? -1;
  let link = slot < 0 ? null : node.getInputLink(slot);
  let origin = link && node.graph.getNodeById(link.origin_id);
  while (origin?.type === "Reroute") {
    link = origin.getInputLink(0);
    origin = link && node.graph.getNodeById(link.origin_id);
  }
  if (origin?.comfyClass !== "LoadImage" || link.origin_slot !== 0 || origin.mode !== 0) return null;
  const value = origin.widgets?.find((widget) => widget.name === "image")?.value;
  const [, subfolder = "", filename, type = "input"] = /^(?:(.*)\/)?([^/]+?)(?: \[(\w+)\])?$/.exec(value ?? "") ?? [];
  return filename ? fileUrl({ filename, subfolder, type }) : null;
}

function addFocus(node) {
  const read = () => Object.fromEntries(node.widgets.map(({ name, value }) => [name, value]));
  const view = new FocusView({ read, write: (changes) => write(node, changes), mayStart: () => !app.canvas.read_only });
  passToCanvas(view.element);
  addPlace(node, "focus view", "bokeh_focus_view", view.element, MIN_HEIGHT);
  node.setSize([Math.max(node.size[0], FIRST_WIDTH), node.computeSize()[1] + 20]);

  let run = null;
  let shown = "";
  let seen = "";
  /** Show the scene of the files in front and of the last run; the newest request wins. */
  const load = async () => {
    const values = read();
    const [loaded, grey] = [loadedBefore(node, "image"), loadedBefore(node, "depth")];
    const wanted = JSON.stringify([loaded, grey, run, values.depth_is]);
    if (wanted === shown) return;
    shown = wanted;
    try {
      const ran = run && (await pictureOf(fileUrl(run.picture)));
      const picture = loaded ? await pictureOf(loaded) : ran;
      let map = null;
      if (grey && values.depth_is.startsWith("near")) map = await mapOfGrey(grey, values.depth_is);
      else if (run && run.depth_is === values.depth_is && sameScene(picture, ran)) map = await mapOfRun(run, fileUrl(run.depth));
      if (wanted !== shown) return;
      view.show(picture?.bitmap ?? null, map, loaded ? picture : run);
    } catch (error) {
      console.warn(`Bokeh Focus: the picture cannot be shown (${error.message})`);
      if (wanted === shown) view.show(null, null, null);
    }
  };
  watch(node, () => {
    load();
    const now = JSON.stringify(read());
    if (now !== seen) view.refresh();
    seen = now;
  });
  followOutputs(node, ({ bokeh_focus: [newest] = [] }) => {
    if (!newest) return false;
    run = newest;
    load();
    return true;
  });
  after(node, "onRemoved", () => view.dispose());
}

/** Set widgets of a node as one step to undo; a sentence where another node sets one of them. */
function write(node, changes) {
  const linked = node.inputs.filter(({ widget, link }) => link != null && widget?.name in changes).map(({ name }) => name);
  const free = Object.entries(changes).filter(([name]) => !linked.includes(name));
  if (free.length) {
    const find = (name) => node.widgets.find((each) => each.name === name);
    change(() => free.forEach(([name, value]) => setWidget(node, find(name), value)));
    node.graph.setDirtyCanvas(true, true);
  }
  const names = linked.join(", ");
  return names ? say("{names}: set by another node. Disconnect it to choose here.", { names }) : undefined;
}

app.registerExtension({
  name: "Bokeh.Focus",
  nodeCreated(node) {
    if (node.comfyClass === NODE) addFocus(node);
  },
});
