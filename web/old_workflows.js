// Workflows that were saved before "MagCache (published rule)" had all of its widgets keep the settings
// that were typed into them: the page would fill in today's default for `recommended`, which is on.
import { app } from "../../scripts/app.js";

const WIDGETS_THEN = 6;
const ADDED = ["automatic", false]; // residuals, recommended

app.registerExtension({
  name: "MagCache.oldWorkflows",
  beforeConfigureGraph(graph) {
    const inner = (graph.definitions?.subgraphs ?? []).flatMap((subgraph) => subgraph.nodes ?? []);
    for (const { type, widgets_values: values } of [...(graph.nodes ?? []), ...inner]) {
      if (type === "MagCache" && Array.isArray(values) && values.length >= WIDGETS_THEN)
        values.push(...ADDED.slice(values.length - WIDGETS_THEN));
    }
  },
});
