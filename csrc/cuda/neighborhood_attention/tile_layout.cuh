// Where things lie in a block's shared memory; host and device share it.
#pragma once

#include "tile_plan.cuh"

namespace visionattn::tile {

// All numbers are byte offsets. All lists have entries of 4 bytes, or of 8 where two numbers belong
// together.
//
// `distances` (between lines) are those that a lined kernel's table tells apart; a line of -infinity follows them, and
// every position of a warp along the last axis has a table.
// Bytes of the positions of a column that is listed; see ListedColumns.
VISIONATTN_HOST_DEVICE int32_t position_bytes(int32_t element) { return element == 4 ? 10 : 8; }

struct ForwardLayout {
  int32_t values, queries, stage, team;  // keys come first; `stage` is the size of all three, `team` of a team's stages
  int32_t table, units, bias, columns, rows, results, positions, places, total;

  VISIONATTN_HOST_DEVICE ForwardLayout(const Plan& plan, int row_bytes, int32_t bins, int32_t distances) {
    const int32_t width = plan.line_pairs[0] > 0 ? 0 : plan.warp_count() * plan.pairs * 16;
    values = plan.columns[0] * row_bytes;
    queries = 2 * plan.columns[0] * row_bytes;
    stage = queries + plan.row_count() * row_bytes;
    team = stage * plan.stages;
    table = (team * plan.teams + 15) / 16 * 16;
    units = table + width * 16 * plan.element + plan.warps[2] * plan.table_line(false) * (distances + 1);
    columns = units + plan.teams * kUnitListBytes;
    rows = columns + plan.columns[0] * 8;
    places = (rows + plan.row_count() * 8 + 15) / 16 * 16;
    // If the plan is split, results leave by a buffer of their own, where places were.
    results = places + max_of(width * 8, plan.split ? plan.teams * plan.row_count() * row_bytes : 0);
    positions = results + plan.row_count() * 4;
    bias = positions + width * position_bytes(plan.element);
    total = bias + (bins + 2) * plan.element;
  }
};

struct BackwardLayout {
  int32_t columns1, rows0, rows1, statistics, stage, team;  // columns0 come first; `stage` is the size of all five
  int32_t table, sums, units, bias, columns, rows, results, numbers, positions, places, total;

  // `inverse`: rows are keys. `sums_in_memory`: the sums of the bias gradient are kept in shared memory.
  VISIONATTN_HOST_DEVICE BackwardLayout(const Plan& plan, int row_bytes, int32_t bins, int32_t distances, bool inverse,
                                        bool sums_in_memory) {
    const bool lined = plan.line_pairs[0] > 0;
    const int32_t width = lined ? 0 : plan.warp_count() * plan.pairs * 16;
    const int32_t sum_bytes =
        plan.teams * (width * kRows * 4 +
                      (bins > 1 ? plan.warp_count() * plan.table_line(inverse) * 4 / plan.element * distances : 0));
    // Of lined columns, warps read as many as a line's pairs past the last.
    const int32_t statistic_count = !inverse ? plan.row_count() : lined ? plan.columns[1] + 32 : width;
    columns1 = plan.columns[inverse] * row_bytes;
    rows0 = 2 * plan.columns[inverse] * row_bytes;
    rows1 = rows0 + plan.row_count() * row_bytes;
    statistics = rows1 + plan.row_count() * row_bytes;
    stage = (statistics + 8 * statistic_count + 255) / 256 * 256;
    team = stage * plan.stages;
    table = team * plan.teams;
    places = 0;  // needed before the first tokens come
    table = max_of(table, (width * 8 + 15) / 16 * 16);
    // The sums, where they are in registers, end up in the token buffers.
    if (!inverse && !sums_in_memory) table = max_of(table, sum_bytes);
    sums = table + width * 16 * plan.element + plan.warps[2] * plan.table_line(inverse) * (distances + 1);
    units = sums + (!inverse && sums_in_memory ? sum_bytes : 0);
    columns = units + plan.teams * kUnitListBytes;
    rows = columns + plan.columns[inverse] * 8;
    results = rows + plan.row_count() * 8;
    numbers = results + plan.row_count() * 8;
    positions = numbers + statistic_count * 4;
    bias = positions + width * position_bytes(plan.element);
    total = bias + (bins + 2) * plan.element;
  }
};

// Columns come to the strip kernels line by line, a line being the columns along the last axis, filled up to a multiple
// of
// 16. Their table is by line instead of by warp: what a row and a column start from depends on the distance of their
// lines and on where both lie along the last axis. `slots` are the positions of a warp's rows along it.
struct StripLayout {
  int32_t columns1, statistics, stage;  // columns0 come first; `stage` is the size of a strip
  int32_t rows0, rows1, table, table_line, table_lines, sums, offsets, results, numbers, total;

  // `second`: there are two tensors of rows; `listed`: columns have statistics; `summed`: the bias gradient is summed
  // up.
  VISIONATTN_HOST_DEVICE StripLayout(const Plan& plan, int row_bytes, int32_t distances, bool second, bool listed,
                                     bool summed) {
    const int32_t tokens = plan.lines * plan.pitch, rows = plan.row_count();
    columns1 = tokens * row_bytes;
    statistics = 2 * tokens * row_bytes;
    stage = (statistics + (listed ? tokens * 8 : 0) + 1023) / 1024 * 1024;
    rows0 = 2 * stage;
    rows1 = rows0 + rows * row_bytes;
    table = rows1 + (second ? rows * row_bytes : 0);
    table_line = plan.pitch * plan.rows[2] * 2;
    table_lines = distances;  // and one of -infinity
    sums = table + table_line * (distances + 1);
    offsets = sums + (summed ? plan.warp_count() * distances * table_line * 2 : 0);
    results = offsets + rows * 8;
    numbers = results + rows * 8;
    total = numbers + rows * 8;
  }
};

// Distances between lines that a strip kernel's table tells apart.
VISIONATTN_HOST_DEVICE int32_t line_distances(const NeighborhoodParams& params) {
  return params.rpb == nullptr ? 1 : (2 * params.axes[0].kernel - 1) * (2 * params.axes[1].kernel - 1);
}

}  // namespace visionattn::tile
