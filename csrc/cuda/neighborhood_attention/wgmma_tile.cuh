// What the Hopper kernels share above single instructions: which rows meet which columns, and the copies of boxes.
#pragma once

#include "wgmma.cuh"
#include "wgmma_plan.cuh"

namespace visionattn::wgmma {

constexpr int kThreads = (1 + kGroups) * kGroupThreads;  // of a block; the first warpgroup copies
constexpr int kMultiplyingWarps = kGroups * kGroupThreads / 32;

struct Coordinates {
  int32_t at[kMaxRank];
};

// Element `index` of a box, row-major.
__device__ __forceinline__ Coordinates unravel(uint32_t index, const int32_t (&extents)[kMaxRank]) {
  Coordinates c;
  c.at[2] = take_digit(index, extents[2]);
  c.at[1] = take_digit(index, extents[1]);
  c.at[0] = static_cast<int32_t>(index);
  return c;
}

__device__ __forceinline__ int32_t volume(const int32_t (&extents)[kMaxRank]) {
  return extents[0] * extents[1] * extents[2];
}

// The two rows of a thread, of the 16 of its warp that start at `warp_row`.
class RowPair {
 public:
  __device__ __forceinline__ RowPair(const Plan& plan, int warp_row) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const Coordinates c = unravel(warp_row + threadIdx.x % 32 / 4 + 8 * h, plan.tile);
      within_[h] = c.at[0] << 16 | c.at[1] << 8 | c.at[2];
      if (c.at[0] >= plan.tile[0]) within_[h] = kNone;
    }
  }

  // Whether row h exists, and its group coordinates; if it doesn't, those of a row that does.
  __device__ __forceinline__ bool find(const Place& place, int h, Coordinates& c) const {
    bool exists = within_[h] != kNone;
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      const int32_t at = place.rows[a].begin + (within_[h] >> 8 * (kMaxRank - 1 - a) & 0xff);
      exists = exists && at < place.rows[a].end;
      c.at[a] = min_of(at, place.rows[a].end - 1);
    }
    return exists;
  }

 private:
  static constexpr int32_t kNone = 0x7fffffff;
  int32_t within_[2];  // the tile: coordinates of 8 bits
};

// Token of a group, numbered within its batch entry.
__device__ __forceinline__ int64_t token_number(const NeighborhoodParams& params, const Place& place,
                                                const Coordinates& c) {
  int64_t number = 0;
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) {
    number = number * params.axes[a].length + c.at[a] * params.axes[a].dilation + place.group[a];
  }
  return number;
}

// Element of a view where a token's channels start.
__device__ __forceinline__ int64_t token_offset(const NeighborhoodParams& params, const Place& place, const View& view,
                                                const Coordinates& c) {
  int64_t offset = place.batch * view.batch + group_offset(view, place, place.head);
#pragma unroll
  for (int a = 0; a < kMaxRank; ++a) offset += int64_t(c.at[a]) * params.axes[a].dilation * view.spatial[a];
  return offset;
}

// Walks through the boxes of columns of a place, the last axis first.
struct BoxWalk {
  int32_t at[kMaxRank] = {};  // from the first column

  __device__ __forceinline__ bool done(const Place& place) const {
    return at[0] >= place.columns[0].size() || place.columns[1].size() == 0 || place.columns[2].size() == 0;
  }

  __device__ __forceinline__ void advance(const Plan& plan, const Place& place) {
    if ((at[2] += plan.box[2]) < place.columns[2].size()) return;
    at[2] = 0;
    if ((at[1] += plan.box[1]) < place.columns[1].size()) return;
    at[1] = 0;
    at[0] += plan.box[0];
  }
};

// Starts copying all channels of a box that begins at `at`, in group coordinates.
template <int kDim>
__device__ __forceinline__ void copy_tokens(uint32_t target, uint32_t piece_bytes, const CUtensorMap* map,
                                            uint64_t* barrier, int32_t channel, const int32_t (&at)[kMaxRank],
                                            int32_t batch) {
#pragma unroll
  for (int piece = 0; piece < kDim / kPieceChannels; ++piece) {
    copy_box(target + piece * piece_bytes, map, barrier, channel + piece * kPieceChannels, at[2], at[1], at[0], batch);
  }
}

// Rows of a buffer that no copy fills are multiplied by weights of zero: they must hold numbers. `buffers` pieces of
// channels with kColumns rows each follow one another.
template <int kColumns>
__device__ __forceinline__ void clear_spare_rows(unsigned char* memory, int buffers, int tokens) {
  const int chunks = (kColumns - tokens) * (kRowBytes / 16);
  for (int i = threadIdx.x; i < chunks * buffers; i += blockDim.x) {
    const uint32_t buffer = i / chunks, within = i - buffer * chunks;
    *reinterpret_cast<uint4*>(memory + (buffer * kColumns + tokens) * kRowBytes + within * 16) = {};
  }
}

__device__ __forceinline__ float exp2_approximate(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// Stores a thread's part of its row h of a sum, times a factor.
template <typename T, int kSums>
__device__ __forceinline__ void store_row(T* target, const float (&sum)[kSums], int h, float factor) {
  target += threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < kSums; i += 4) {
    const float pair[2] = {sum[i + 2 * h] * factor, sum[i + 2 * h + 1] * factor};
    uint32_t packed[1];
    pack<T>(packed, pair);
    *reinterpret_cast<uint32_t*>(target + 2 * i) = packed[0];
  }
}

// Tables of columns, one for every axis: entry 4 * p + t tells which of the columns of a thread with lane % 4 == t (as
// bits, in their order) lie before position p of the box along the axis. They take mask_table_size() words.
VISIONATTN_HOST_DEVICE int32_t mask_table_size(const Plan& plan) {
  return 4 * (plan.box[0] + plan.box[1] + plan.box[2] + kMaxRank);
}

template <int kColumns>
__device__ __forceinline__ void build_mask_tables(const Plan& plan, uint32_t* tables) {
  const int columns = volume(plan.box);
  for (int entry = threadIdx.x; entry < mask_table_size(plan); entry += blockDim.x) {
    int axis = 0, position = entry / 4;
    while (position > plan.box[axis]) position -= plan.box[axis++] + 1;
    const int inner = axis == 2 ? 1 : axis == 1 ? plan.box[2] : plan.box[1] * plan.box[2];
    uint32_t bits = 0;
    for (int i = 0; i < kColumns / 4; ++i) {
      const int column = i / 2 * 8 + entry % 4 * 2 + i % 2;
      const bool before = column < columns && column / inner % plan.box[axis] < position;
      bits |= uint32_t(before) << i;
    }
    tables[entry] = bits;
  }
}

// Which columns the two rows of a thread meet. Positions count from the first column of the place.
template <bool kInverse, int kColumns>
class RowMasks {
 public:
  __device__ __forceinline__ RowMasks(const Plan& plan, const uint32_t* tables)
      : tables_(tables + threadIdx.x % 4), full_(volume(plan.box) == kColumns) {}

  __device__ __forceinline__ void move(const NeighborhoodParams& params, const Place& place, const RowPair& rows) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      Coordinates c;
      rows.find(place, h, c);
#pragma unroll
      for (int a = 0; a < kMaxRank; ++a) {
        const Interval span = met<kInverse>(params.axes[a], place.length[a], c.at[a]);
        spans_[h][a] = (span.begin - place.columns[a].begin) | (span.end - place.columns[a].begin) << 16;
      }
    }
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      const int32_t first = max_of(spans_[0][a] & 0xffff, spans_[1][a] & 0xffff);
      const int32_t end = min_of(spans_[0][a] >> 16, spans_[1][a] >> 16);
      inside_[a] = __reduce_max_sync(~0u, first) | __reduce_min_sync(~0u, end) << 16;
    }
  }

  // Finds which columns of a box the rows meet,
  __device__ __forceinline__ void find(const Plan& plan, const BoxWalk& box) {
    all_ = meets_all(plan, box);
    if (all_) return;
#pragma unroll
    for (int h = 0; h < 2; ++h) bits_[h] = meeting(plan, box, h);
  }

  // and makes the logits of others -infinity.
  __device__ __forceinline__ void apply(float (&logits)[kColumns / 2]) const {
    if (all_) return;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint32_t bits = bits_[h];
#pragma unroll
      for (int i = 0; i < kColumns / 4; ++i) {
        float& logit = logits[i / 2 * 4 + 2 * h + i % 2];
        if ((bits >> i & 1) == 0) logit = -INFINITY;
      }
    }
  }

 private:
  // Whether every row of the warp meets all columns of a box.
  __device__ __forceinline__ bool meets_all(const Plan& plan, const BoxWalk& box) const {
    bool all = full_;
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      all = all && box.at[a] >= (inside_[a] & 0xffff) && box.at[a] + plan.box[a] <= inside_[a] >> 16;
    }
    return all;
  }

  // The columns of a box, as bits, that the thread's row h meets.
  __device__ __forceinline__ uint32_t meeting(const Plan& plan, const BoxWalk& box, int h) const {
    uint32_t bits = ~0u;
    int table = 0;
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      const int first = max_of(min_of((spans_[h][a] & 0xffff) - box.at[a], plan.box[a]), 0);
      const int end = max_of(min_of((spans_[h][a] >> 16) - box.at[a], plan.box[a]), 0);
      bits &= tables_[table + 4 * end] & ~tables_[table + 4 * first];
      table += 4 * (plan.box[a] + 1);
    }
    return bits;
  }

  const uint32_t* tables_;
  bool full_, all_;
  uint32_t bits_[2];
  // First position and end, 16 bits each (see covered()): of the thread's rows, and met by all rows of the warp.
  int32_t spans_[2][kMaxRank], inside_[kMaxRank];
};

// Which boxes of columns the rows of a warpgroup meet; positions as above.
template <bool kInverse>
class GroupSpan {
 public:
  __device__ __forceinline__ GroupSpan(const Plan& plan, int group) {
    const int first_row = group * kGroupRows, last_row = min_of(first_row + kGroupRows, volume(plan.tile)) - 1;
    const Coordinates first = unravel(first_row, plan.tile), last = unravel(max_of(last_row, 0), plan.tile);
    bool whole = false;  // whether the rows cover the tile along the axis
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      rows_[a] = {0, plan.tile[a]};
      if (!whole) rows_[a] = {first.at[a], last.at[a] + 1};
      if (first_row > last_row) rows_[a] = {0, 0};
      whole = whole || first.at[a] != last.at[a];
    }
  }

  __device__ __forceinline__ void move(const NeighborhoodParams& params, const Place& place) {
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      const int32_t begin = place.rows[a].begin;
      const Interval rows = {begin + rows_[a].begin, min_of(begin + rows_[a].end, place.rows[a].end)};
      span_[a] = {0, 0};
      if (rows.size() > 0) {
        span_[a] = met<kInverse>(params.axes[a], place.length[a], rows);
        span_[a].begin -= place.columns[a].begin;
        span_[a].end -= place.columns[a].begin;
      }
    }
  }

  __device__ __forceinline__ bool meets(const Plan& plan, const BoxWalk& box) const {
    bool some = true;
#pragma unroll
    for (int a = 0; a < kMaxRank; ++a) {
      some = some && box.at[a] < span_[a].end && box.at[a] + plan.box[a] > span_[a].begin;
    }
    return some;
  }

 private:
  Interval rows_[kMaxRank], span_[kMaxRank];  // rows_: within the tile
};

}  // namespace visionattn::wgmma
