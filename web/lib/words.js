/** The pack's texts in the page's language. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

/** `bokeh` (English sentence -> sentence) and `nodeDefs`. */
let known = {};

/** A sentence in the page's language; `{name}` in it stands for `values.name`. */
export function say(sentence, values = {}) {
  return (known.bokeh?.[sentence] ?? sentence).replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** A label of the server's, which begins with what the values are. */
export const named = (label) => label.replace(/^blur\b/, () => say("blur"));

app.registerExtension({
  name: "Bokeh.Words",
  /** Older pages forget what packs translate, so the definitions of nodes take it along. */
  async addCustomNodeDefs(defs) {
    const answer = await api.fetchApi("/i18n").catch(() => undefined);
    known = (answer?.ok && (await answer.json())[app.extensionManager.setting.get("Comfy.Locale")]) || {};
    for (const [id, { display_name, description, inputs, outputs }] of Object.entries(known.nodeDefs ?? {})) {
      const def = id.startsWith("Bokeh") && defs[id];
      if (!def) continue;
      Object.assign(def, { display_name, description });
      for (const [name, [, options]] of Object.entries({ ...def.input.required, ...def.input.optional })) {
        if (options) options.tooltip = inputs?.[name]?.tooltip ?? options.tooltip;
      }
      def.output_tooltips = def.output_tooltips?.map((tooltip, index) => outputs?.[index]?.tooltip ?? tooltip);
    }
  },
  nodeCreated(node) {
    const { inputs, outputs } = (node.comfyClass?.startsWith("Bokeh") && known.nodeDefs?.[node.comfyClass]) || {};
    for (const widget of node.widgets ?? []) widget.label = inputs?.[widget.name]?.name ?? widget.label;
    for (const slot of node.inputs ?? []) slot.localized_name = inputs?.[slot.name]?.name ?? slot.localized_name;
    node.outputs?.forEach((slot, index) => (slot.localized_name = outputs?.[index]?.name ?? slot.localized_name));
  },
});
