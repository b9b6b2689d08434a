// The fused kernels. Included per instruction set, after rows.h.
//
// Forward and the query gradient walk over queries and read the window's keys; the key and value gradients walk over
// keys and read the queries of the inverse window, recomputing their weights from lse. So no two threads ever write the
// same place, and results do not depend on the number of threads.

template <typename T>
inline T* at(const View& view, int64_t batch, int64_t head) {
  return static_cast<T*>(view.data) + batch * view.batch + head * view.head;
}

// One (batch, head) of the call.
template <typename T, typename Scalar>
struct Plane {
  Plane(const NeighborhoodParams& p, int64_t batch, int64_t head)
      : query(at<const T>(p.query, batch, head)),
        key(at<const T>(p.key, batch, head / (p.heads / p.heads_kv))),
        value(at<const T>(p.value, batch, head / (p.heads / p.heads_kv))),
        output(at<T>(p.output, batch, head)),
        rpb(p.rpb ? static_cast<const Scalar*>(p.rpb) + head * p.rpb_size() : nullptr),
        statistics(batch * p.tokens() * p.heads + head) {
    if (p.additional) {
      additional_key = at<const T>(p.additional_key, batch, head / (p.heads / p.heads_kv));
      additional_value = at<const T>(p.additional_value, batch, head / (p.heads / p.heads_kv));
    }
  }
  const T *query, *key, *value;
  T* output;
  const Scalar* rpb;
  int64_t statistics;  // offset of the plane in lse and delta
  const T *additional_key = nullptr, *additional_value = nullptr;
};

// What a thread keeps while it walks over queries.
template <typename T, typename Scalar>
struct QueryWalk {
  explicit QueryWalk(const NeighborhoodParams& params)
      : p(params),
        query_step(spatial_steps(p.query)),
        token_step(contiguous_steps(p.axes, p.heads)),
        keys(p.axes, spatial_steps(p.key)),
        values(p.axes, spatial_steps(p.value)),
        biases(p.axes, bias_steps(p.axes), false),
        query(p.dim),
        logits(p.window_size() + p.additional),
        window_bias(p.rpb ? p.window_size() : 0) {
    for (int64_t m = 0; m < p.additional; ++m) {
      additional_keys.push_back(m * p.additional_key.spatial[0]);
      additional_values.push_back(m * p.additional_value.spatial[0]);
    }
  }

  // Scaled and biased logits of the query at `position`, over the window and the additional tokens.
  void compute_logits(const Plane<T, Scalar>& plane, const Position& position) {
    const Box box = box_of<false>(p.axes, position);
    window = box.size();
    first_value = values.place(box);
    query.read(plane.query + query_step.at(position), Scalar(p.scale));
    first_key = keys.place(box);
    dots(query, plane.key + first_key, keys.data(), window, logits.data());
    if (plane.rpb) {
      Position shift = kernel_minus_one(p.axes);
      for (int i = 0; i < kMaxRank; ++i) shift[i] -= box.center[i];
      first_bias = bias_steps(p.axes).at(shift) + biases.place(box);
      const Scalar* source = plane.rpb + first_bias;
      if (source != bias_source || biases.version() != bias_version) {
        // Away from borders all queries have the same biases: gather them once.
        for (int64_t i = 0; i < window; ++i) window_bias[i] = source[biases.data()[i]];
        bias_source = source;
        bias_version = biases.version();
      }
      for (int64_t i = 0; i < window; ++i) logits[i] += window_bias[i];
    }
    if (p.additional) {
      dots(query, plane.additional_key, additional_keys.data(), p.additional, logits.data() + window);
    }
  }

  int64_t slots() const { return window + p.additional; }

  const NeighborhoodParams& p;
  const Linear query_step, token_step;
  BoxOffsets keys, values, biases;
  std::vector<int64_t> additional_keys, additional_values;
  Row<Scalar> query;
  std::vector<Scalar> logits, window_bias;
  const Scalar* bias_source = nullptr;
  int64_t bias_version = -1;
  int64_t window = 0, first_key = 0, first_value = 0, first_bias = 0;
};

// Queries that one task walks over: enough to pay for its set-up.
constexpr int64_t kTokensPerTask = 64;

template <typename T>
void forward(const NeighborhoodParams& p) {
  using Scalar = typename Compute<T>::Type;
  const int64_t tokens = p.tokens(), blocks = (tokens + kTokensPerTask - 1) / kTokensPerTask;
  const Linear output_step = spatial_steps(p.output);
  torch::stable::parallel_for(0, p.batch * blocks * p.heads, 1, [&](int64_t begin, int64_t end) {
    QueryWalk<T, Scalar> walk(p);
    Row<Scalar> output(p.dim_value);
    for (int64_t task = begin; task < end; ++task) {
      // Heads vary fastest: they share cache lines.
      const int64_t head = task % p.heads, block = task / p.heads % blocks, batch = task / p.heads / blocks;
      const Plane<T, Scalar> plane(p, batch, head);
      Scalar* lse = static_cast<Scalar*>(p.lse) + plane.statistics;
      const int64_t first = block * kTokensPerTask;
      for_tokens(p.axes, first, std::min(first + kTokensPerTask, tokens), [&](const Position& position, int64_t token) {
        walk.compute_logits(plane, position);
        Scalar* logits = walk.logits.data();
        const int64_t slots = walk.slots();
        const Scalar top = max_of_row(logits, slots);
        const Scalar sum = exp_and_sum(logits, slots, top);
        output.clear();
        accumulate(logits, plane.value + walk.first_value, walk.values.data(), walk.window, output);
        if (p.additional) {
          accumulate(logits + walk.window, plane.additional_value, walk.additional_values.data(), p.additional, output);
        }
        output.write(plane.output + output_step.at(position), 1 / sum);
        lse[token * p.heads] = top + std::log(sum);
      });
    }
  });
}

// Gradients of query and rpb, and delta.
template <typename T>
void backward_query(const NeighborhoodParams& p, const NeighborhoodGradients& g) {
  using Scalar = typename Compute<T>::Type;
  const int64_t tokens = p.tokens(), rpb_size = g.grad_rpb ? p.rpb_size() : 0;
  // Each head's work is split into a number of segments that depends on the sizes alone; every segment sums its bias
  // gradient on its own, and the sums are added in order.
  const int64_t work = p.batch * tokens;
  int64_t segments = std::max<int64_t>(1, std::min<int64_t>(64, work / kTokensPerTask));
  if (rpb_size) segments = std::max<int64_t>(1, std::min<int64_t>(segments, work * p.dim / rpb_size));
  std::vector<Scalar> partial(p.heads * segments * rpb_size);
  const Linear grad_step = spatial_steps(g.grad_output), output_step = spatial_steps(p.output),
               query_grad_step = spatial_steps(g.grad_query);
  torch::stable::parallel_for(0, p.heads * segments, 1, [&](int64_t begin, int64_t end) {
    QueryWalk<T, Scalar> walk(p);
    Row<Scalar> grad(p.dim_value), output(p.dim_value), grad_query(p.dim);
    std::vector<Scalar> products(p.window_size() + p.additional);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head = task % p.heads, segment = task / p.heads;
      Scalar* bias = partial.data() + (head * segments + segment) * rpb_size;
      const int64_t last = work * (segment + 1) / segments;
      for (int64_t start = work * segment / segments, stop; start < last; start = stop) {
        const int64_t batch = start / tokens;
        stop = std::min((batch + 1) * tokens, last);
        const Plane<T, Scalar> plane(p, batch, head);
        const T* grad_output = at<const T>(g.grad_output, batch, head);
        T* target = at<T>(g.grad_query, batch, head);
        const Scalar* lse = static_cast<const Scalar*>(p.lse) + plane.statistics;
        const Scalar* grad_lse = g.grad_lse ? static_cast<const Scalar*>(g.grad_lse) + plane.statistics : nullptr;
        Scalar* delta = static_cast<Scalar*>(g.delta) + plane.statistics;
        const int64_t skip = batch * tokens;
        for_tokens(p.axes, start - skip, stop - skip, [&](const Position& position, int64_t token) {
          walk.compute_logits(plane, position);
          const int64_t slots = walk.slots(), statistic = token * p.heads;
          Scalar* weights = walk.logits.data();
          exp_and_sum(weights, slots, lse[statistic]);
          grad.read(grad_output + grad_step.at(position));
          output.read(plane.output + output_step.at(position));
          const Scalar shift = dot(grad, output) - (grad_lse ? grad_lse[statistic] : 0);
          delta[statistic] = shift;
          dots(grad, plane.value + walk.first_value, walk.values.data(), walk.window, products.data());
          if (p.additional) {
            dots(grad, plane.additional_value, walk.additional_values.data(), p.additional,
                 products.data() + walk.window);
          }
          for (int64_t i = 0; i < slots; ++i) weights[i] *= products[i] - shift;
          grad_query.clear();
          accumulate(weights, plane.key + walk.first_key, walk.keys.data(), walk.window, grad_query);
          if (p.additional) {
            accumulate(weights + walk.window, plane.additional_key, walk.additional_keys.data(), p.additional,
                       grad_query);
          }
          grad_query.write(target + query_grad_step.at(position), Scalar(p.scale));
          if (rpb_size) {
            const int64_t* offset = walk.biases.data();
            for (int64_t i = 0; i < walk.window; ++i) bias[walk.first_bias + offset[i]] += weights[i];
          }
        });
      }
    }
  });
  if (!rpb_size) return;
  Scalar* grad_rpb = static_cast<Scalar*>(g.grad_rpb);
  torch::stable::parallel_for(0, p.heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; ++head) {
      for (int64_t i = 0; i < rpb_size; ++i) {
        Scalar sum = 0;
        for (int64_t s = 0; s < segments; ++s) sum += partial[(head * segments + s) * rpb_size + i];
        grad_rpb[head * rpb_size + i] = sum;
      }
    }
  });
}

// What a thread keeps while it walks over keys and looks at queries.
template <typename T, typename Scalar>
struct KeyWalk {
  KeyWalk(const NeighborhoodParams& params, const NeighborhoodGradients& gradients)
      : p(params), g(gradients), key(p.dim), value(p.dim_value), grad_key(p.dim), grad_value(p.dim_value) {}

  // Adds the contributions of `count` queries to grad_key and grad_value. Offsets are relative to the pointers.
  void add(const T* query, const int64_t* query_offsets, const T* grad_output, const int64_t* grad_offsets,
           const Scalar* bias, const int64_t* bias_offsets, int64_t statistic, const int64_t* statistic_offsets,
           int64_t count) {
    if (int64_t(weights.size()) < count) weights.resize(count), products.resize(count);
    const Scalar* lse = static_cast<const Scalar*>(p.lse) + statistic;
    const Scalar* delta = static_cast<const Scalar*>(g.delta) + statistic;
    dots(key, query, query_offsets, count, weights.data());
    if (bias) {
      for (int64_t i = 0; i < count; ++i) weights[i] += bias[bias_offsets[i]];
    }
    for (int64_t i = 0; i < count; ++i) weights[i] -= lse[statistic_offsets[i]];
    exp_and_sum(weights.data(), count, Scalar(0));
    accumulate(weights.data(), grad_output, grad_offsets, count, grad_value);
    dots(value, grad_output, grad_offsets, count, products.data());
    for (int64_t i = 0; i < count; ++i) weights[i] *= products[i] - delta[statistic_offsets[i]];
    accumulate(weights.data(), query, query_offsets, count, grad_key);
  }

  void start(const T* key_source, const T* value_source) {
    key.read(key_source, Scalar(p.scale));
    value.read(value_source);
    grad_key.clear();
    grad_value.clear();
  }

  void finish(T* key_target, T* value_target) const {
    grad_key.write(key_target, Scalar(p.scale));
    grad_value.write(value_target);
  }

  const NeighborhoodParams& p;
  const NeighborhoodGradients& g;
  Row<Scalar> key, value, grad_key, grad_value;
  std::vector<Scalar> weights, products;
};

template <typename T>
void backward_key(const NeighborhoodParams& p, const NeighborhoodGradients& g) {
  using Scalar = typename Compute<T>::Type;
  const int64_t tokens = p.tokens(), blocks = (tokens + kTokensPerTask - 1) / kTokensPerTask;
  const int32_t share = p.heads / p.heads_kv;
  const Linear key_step = spatial_steps(p.key), value_step = spatial_steps(p.value),
               grad_key_step = spatial_steps(g.grad_key), grad_value_step = spatial_steps(g.grad_value);
  torch::stable::parallel_for(0, p.batch * blocks * p.heads_kv, 1, [&](int64_t begin, int64_t end) {
    KeyWalk<T, Scalar> walk(p, g);
    BoxOffsets queries(p.axes, spatial_steps(p.query)), grads(p.axes, spatial_steps(g.grad_output)),
        statistics(p.axes, contiguous_steps(p.axes, p.heads)), biases(p.axes, negated(bias_steps(p.axes)), false);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head_kv = task % p.heads_kv, block = task / p.heads_kv % blocks, batch = task / p.heads_kv / blocks,
                    first = block * kTokensPerTask;
      const auto body = [&](const Position& position, int64_t) {
        const Box box = box_of<true>(p.axes, position);
        walk.start(at<const T>(p.key, batch, head_kv) + key_step.at(position),
                   at<const T>(p.value, batch, head_kv) + value_step.at(position));
        Position shift = kernel_minus_one(p.axes);
        for (int i = 0; i < kMaxRank; ++i) shift[i] += box.center[i];
        const int64_t first_bias = bias_steps(p.axes).at(shift) + biases.place(box);
        const int64_t first_query = queries.place(box), first_grad = grads.place(box),
                      first_statistic = statistics.place(box);
        for (int64_t head = head_kv * share; head < (head_kv + 1) * share; ++head) {
          const Plane<T, Scalar> plane(p, batch, head);
          walk.add(plane.query + first_query, queries.data(), at<const T>(g.grad_output, batch, head) + first_grad,
                   grads.data(), plane.rpb ? plane.rpb + first_bias : nullptr, biases.data(),
                   plane.statistics + first_statistic, statistics.data(), box.size());
        }
        walk.finish(at<T>(g.grad_key, batch, head_kv) + grad_key_step.at(position),
                    at<T>(g.grad_value, batch, head_kv) + grad_value_step.at(position));
      };
      for_tokens(p.axes, first, std::min(first + kTokensPerTask, tokens), body);
    }
  });
}

// Gradients of the additional keys and values: every query attends to each of them.
template <typename T>
void backward_additional(const NeighborhoodParams& p, const NeighborhoodGradients& g) {
  using Scalar = typename Compute<T>::Type;
  const int32_t share = p.heads / p.heads_kv, width = p.axes[2].length;
  const Linear query_step = spatial_steps(p.query), grad_step = spatial_steps(g.grad_output),
               token_step = contiguous_steps(p.axes, p.heads);
  std::vector<int64_t> queries, grads, statistics;  // one row of the map
  for (int64_t x = 0; x < width; ++x) {
    queries.push_back(x * query_step.step[2]);
    grads.push_back(x * grad_step.step[2]);
    statistics.push_back(x * p.heads);
  }
  torch::stable::parallel_for(0, p.batch * p.heads_kv * p.additional, 1, [&](int64_t begin, int64_t end) {
    KeyWalk<T, Scalar> walk(p, g);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t m = task % p.additional, head_kv = task / p.additional % p.heads_kv,
                    batch = task / p.additional / p.heads_kv;
      const auto token = [&](const View& view) { return at<T>(view, batch, head_kv) + m * view.spatial[0]; };
      walk.start(token(p.additional_key), token(p.additional_value));
      for (int64_t head = head_kv * share; head < (head_kv + 1) * share; ++head) {
        const Plane<T, Scalar> plane(p, batch, head);
        const T* grad_output = at<const T>(g.grad_output, batch, head);
        for (Position row{}; row[0] < p.axes[0].length; ++row[0]) {
          for (row[1] = 0; row[1] < p.axes[1].length; ++row[1]) {
            walk.add(plane.query + query_step.at(row), queries.data(), grad_output + grad_step.at(row), grads.data(),
                     nullptr, nullptr, plane.statistics + token_step.at(row), statistics.data(), width);
          }
        }
      }
      walk.finish(token(g.grad_additional_key), token(g.grad_additional_value));
    }
  });
}

template <typename T>
void backward(const NeighborhoodParams& p, const NeighborhoodGradients& g) {
  backward_query<T>(p, g);  // writes delta, which the others read
  backward_key<T>(p, g);
  if (p.additional) backward_additional<T>(p, g);
}
