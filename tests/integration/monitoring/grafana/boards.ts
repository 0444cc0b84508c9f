// What a dashboard's JSON must be by Grafana's published types: the whole, and the options of the panels that we use.
import type { AnnotationQuery, Dashboard, DataQuery, FieldConfigSource, Panel, RowPanel } from "@grafana/schema";
import type { Options as StatOptions } from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen.js";
import type {
  FieldConfig as TimeSeriesFieldConfig,
  Options as TimeSeriesOptions,
} from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen.js";

// JSON has the value of an enumeration's member where TypeScript wants the member.
type Json<T> = T extends string ? `${T}` : T extends (infer U)[] ? Json<U>[] : T extends object ? { [K in keyof T]: Json<T[K]> } : T;

type PanelOf<Type, Options, Custom> = Omit<Panel, "type" | "options" | "fieldConfig"> & {
  type: Type;
  options: Partial<Options>;
  fieldConfig: FieldConfigSource<Partial<Custom>>;
};

export type Board = Json<
  Omit<Dashboard, "annotations" | "panels"> & {
    annotations?: { list?: AnnotationQuery<DataQuery & { expr: string }>[] };
    panels: (
      | (Omit<RowPanel, "type"> & { type: "row" })
      | PanelOf<"stat", StatOptions, {}>
      | PanelOf<"timeseries", TimeSeriesOptions, TimeSeriesFieldConfig>
    )[];
  }
>;
