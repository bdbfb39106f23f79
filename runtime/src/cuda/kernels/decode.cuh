// One token's attention, with everything between its projections and its mix: norms of heads, RoPE, the store of its own key
// and value, attention split over positions, and the merge of the parts.
//
// A block has one key head, its query heads, and a range of positions. 8, 16 or 32 lanes of a warp have a position, 8 elements
// each, so a warp reads whole lines, 4 positions a lane at a time, keys and values together. Each such group of lanes keeps a softmax of
// its own (largest score, sum of weights, weighted sum of values), so that the loop has no barrier and no more shuffles than
// the dot products need. They are merged over the warp, the block, then the blocks, always in one order.
//
// Which block finishes last is not fixed; what it does is.

const int DECODE = 256, DECODE_WARPS = DECODE / WARP;
/// Query heads that go over the positions together; more take another round.
const int DECODE_HEADS = 4;
/// Positions of a lane that are loaded at a time.
const int DECODE_AHEAD = 4;

/// Eight elements as they are kept.
template <class T> struct Eight;

template <> struct Eight<u16> {
    uint4 w;
    INLINE void load(const u16* p) { w = *reinterpret_cast<const uint4*>(p); }
    INLINE void zero() { w = uint4{0, 0, 0, 0}; }
    INLINE void widen(float (&x)[8]) const {
        u32 pairs[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
        for (int i = 0; i < 4; i++) x[2 * i] = half_to_float(low_half(pairs[i])), x[2 * i + 1] = half_to_float(high_half(pairs[i]));
    }
};

template <> struct Eight<float> {
    float4 a, b;
    INLINE void load(const float* p) { a = reinterpret_cast<const float4*>(p)[0], b = reinterpret_cast<const float4*>(p)[1]; }
    INLINE void zero() { a = b = float4{0, 0, 0, 0}; }
    INLINE void widen(float (&x)[8]) const {
        x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    }
};

/// A warp takes a head [head_dim] to shared memory: its norm, where there are weights, RoPE, where there are tables (of its
/// position, [rotary_dim / 2]), times factor.
INLINE void stage_head(float* to, const float* from, const float* norm, const float* cosines, const float* sines,
                       int head_dim, int rotary_dim, float eps, float factor) {
    int lane = threadIdx.x % WARP;
    float r = 1;
    if (norm) {
        float squares = 0;
#pragma unroll 1
        for (int d = lane; d < head_dim; d += WARP) squares += from[d] * from[d];
        r = rsqrtf(warp_sum(squares) / head_dim + eps);
    }
    int pairs = cosines ? rotary_dim / 2 : 0;
    auto normed = [=](int d) { return norm ? from[d] * r * norm[d] : from[d]; };
#pragma unroll 1
    for (int j = lane; j < pairs; j += WARP) {
        float a = normed(j), b = normed(j + pairs), c = cosines[j], s = sines[j];
        to[j] = (a * c - b * s) * factor;
        to[j + pairs] = (b * c + a * s) * factor;
    }
#pragma unroll 1
    for (int d = 2 * pairs + lane; d < head_dim; d += WARP) to[d] = normed(d) * factor;
}

/// A part of a softmax: the largest score, the sum of weights relative to it, the weighted sum of 8 elements.
struct Softmax {
    float largest, total, sum[8];

    /// What its numbers are multiplied by when the largest score is `to`.
    INLINE float keep(float to) const { return largest == NOTHING ? 0.0f : exp_fast(largest - to); }
};

/// Query heads `head`.. of a key head, up to DECODE_HEADS, over positions begin..end; leaves in `merged` [warps][DECODE_HEADS][head_dim
/// + 2] each warp's sum, largest score and sum of weights.
template <class T>
INLINE void decode_heads(const float* queries, int head, int group, const T* keys, const T* values, float* merged,
                         long long begin, long long end, int positions, int head_dim, float cap) {
    // Of one position: 8, 16 or 32.
    int lanes = head_dim <= 64 ? 8 : head_dim <= 128 ? 16 : 32, groups = WARP / lanes, tile_size = groups * DECODE_AHEAD;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, d = lane % lanes * 8;
    bool has_elements = d < head_dim;
    Softmax parts[DECODE_HEADS];
#pragma unroll
    for (int h = 0; h < DECODE_HEADS; h++) {
        parts[h].largest = NOTHING, parts[h].total = 0;
#pragma unroll
        for (int e = 0; e < 8; e++) parts[h].sum[e] = 0;
    }
#pragma unroll 1
    for (long long tile = begin + warp * tile_size; tile < end; tile += DECODE_WARPS * tile_size) {
        Eight<T> k[DECODE_AHEAD], v[DECODE_AHEAD];
        int at = static_cast<int>(tile % positions) + lane / lanes, left = static_cast<int>(end - tile) - lane / lanes;
#pragma unroll
        for (int i = 0; i < DECODE_AHEAD; i++) {
            int row = at + i * groups;
            row -= row < positions ? 0 : positions;
            if (i * groups < left && has_elements) {
                k[i].load(keys + static_cast<long long>(row) * head_dim + d);
                v[i].load(values + static_cast<long long>(row) * head_dim + d);
            } else {
                k[i].zero(), v[i].zero();
            }
        }
#pragma unroll
        for (int h = 0; h < DECODE_HEADS; h++) {
            if (head + h >= group) break;
            float q[8], x[8], scores[DECODE_AHEAD];
            Eight<float> query;
            query.zero();
            if (has_elements) query.load(queries + (head + h) * head_dim + d);
            query.widen(q);
            Softmax& part = parts[h];
            float largest = part.largest;
#pragma unroll
            for (int i = 0; i < DECODE_AHEAD; i++) {
                k[i].widen(x);
                float s = 0;
#pragma unroll
                for (int e = 0; e < 8; e++) s += q[e] * x[e];
                scores[i] = s;
            }
            // All four dot products a step: their shuffles cover each other.
            for (int bit = lanes / 2; bit > 0; bit /= 2) {
#pragma unroll
                for (int i = 0; i < DECODE_AHEAD; i++) scores[i] += __shfl_xor_sync(ALL_LANES, scores[i], bit);
            }
#pragma unroll
            for (int i = 0; i < DECODE_AHEAD; i++) {
                scores[i] = i * groups < left ? capped(scores[i], cap) : NOTHING;
                largest = fmaxf(largest, scores[i]);
            }
            float keep = part.keep(largest);
            part.largest = largest;
            part.total *= keep;
#pragma unroll
            for (int e = 0; e < 8; e++) part.sum[e] *= keep;
#pragma unroll
            for (int i = 0; i < DECODE_AHEAD; i++) {
                float weight = scores[i] == NOTHING ? 0.0f : exp_fast(scores[i] - largest);
                part.total += weight;
                v[i].widen(x);
#pragma unroll
                for (int e = 0; e < 8; e++) part.sum[e] += weight * x[e];
            }
        }
    }
#pragma unroll
    for (int h = 0; h < DECODE_HEADS; h++) {
        if (head + h >= group) break;
        Softmax& part = parts[h];
        float largest = part.largest;
        for (int bit = lanes; bit < WARP; bit *= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, bit));
        float keep = part.keep(largest);
        part.total *= keep;
#pragma unroll
        for (int e = 0; e < 8; e++) part.sum[e] *= keep;
        for (int bit = lanes; bit < WARP; bit *= 2) {
            part.total += __shfl_xor_sync(ALL_LANES, part.total, bit);
#pragma unroll
            for (int e = 0; e < 8; e++) part.sum[e] += __shfl_xor_sync(ALL_LANES, part.sum[e], bit);
        }
        float* to = merged + (warp * DECODE_HEADS + h) * (head_dim + 2);
        if (lane < lanes && has_elements)
#pragma unroll
            for (int e = 0; e < 8; e++) to[d + e] = part.sum[e];
        if (lane == 0) to[head_dim] = largest, to[head_dim + 1] = part.total;
    }
}

template <class T>
INLINE void decode(const float* q, const float* k, const float* v, const float* cosines, const float* sines,
                   const float* q_norm, const float* k_norm, T* cache_k, T* cache_v, float* out, float* partial, u32* counter,
                   const Step* step, int heads, int kv_heads, int head_dim, int rotary_dim, int positions, int window,
                   int splits, float eps, float scale, float cap) {
    int warp = threadIdx.x / WARP, kv_head = blockIdx.x, split = blockIdx.y, group = heads / kv_heads;
    float* queries = reinterpret_cast<float*>(shared_bytes());           // [group][head_dim]
    float* merged = queries + group * head_dim;                          // [warps][DECODE_HEADS][head_dim + 2]
    float* own_key = merged;                                             // [head_dim], until the first merge
    u32* is_last = reinterpret_cast<u32*>(merged + DECODE_WARPS * DECODE_HEADS * (head_dim + 2));
    T* keys = cache_k + static_cast<long long>(kv_head) * positions * head_dim;
    T* values = cache_v + static_cast<long long>(kv_head) * positions * head_dim;

    // The token that this step is about was chosen two launches ago at least: its position is there before the wait, and so
    // are all keys and values but its own.
    long long last = step->first, first = first_seen(last, window);
    int seen = static_cast<int>(last + 1 - first), share = ceil_div(ceil_div(seen, splits), 64) * 64, parts = ceil_div(seen, share);
    long long begin = first + static_cast<long long>(split) * share, end = min(begin + share, last + 1);
    if (begin + threadIdx.x < min(end, last)) {
        long long at = (begin + threadIdx.x) % positions * head_dim;
#pragma unroll 1
        for (int d = 0; d < head_dim; d += 128 / sizeof(T)) prefetch(keys + at + d), prefetch(values + at + d);
    }
    wait_for_previous();
    if (split >= parts) return;

    const float* cosine = cosines ? cosines + last * (rotary_dim / 2) : nullptr;
    const float* sine = cosines ? sines + last * (rotary_dim / 2) : nullptr;
    const float* query = q + static_cast<long long>(kv_head) * group * head_dim;
#pragma unroll 1
    for (int h = warp; h < group; h += DECODE_WARPS)
        stage_head(queries + h * head_dim, query + h * head_dim, q_norm, cosine, sine, head_dim, rotary_dim, eps, scale);
    if (split == parts - 1 && warp == DECODE_WARPS - 1) {
        stage_head(own_key, k + kv_head * head_dim, k_norm, cosine, sine, head_dim, rotary_dim, eps, 1.0f);
        __syncwarp();
        long long at = last % positions * head_dim;
#pragma unroll 1
        for (int d = threadIdx.x % WARP; d < head_dim; d += WARP) {
            narrow(own_key[d], keys[at + d]);
            narrow(v[kv_head * head_dim + d], values[at + d]);
        }
    }
    __syncthreads();

    int width = head_dim + 2;
    float* own_part = partial + (static_cast<long long>(kv_head) * splits + split) * group * width;
    for (int head = 0; head < group; head += DECODE_HEADS) {
        decode_heads(queries, head, group, keys, values, merged, begin, end, positions, head_dim, cap);
        __syncthreads();
#pragma unroll 1
        for (int i = threadIdx.x; i < min(DECODE_HEADS, group - head) * head_dim; i += DECODE) {
            const float* from = merged + i / head_dim * width;
            int d = i % head_dim;
            float largest = NOTHING, sum = 0, total = 0;
            for (int w = 0; w < DECODE_WARPS; w++) largest = fmaxf(largest, from[w * DECODE_HEADS * width + head_dim]);
            for (int w = 0; w < DECODE_WARPS; w++) {
                const float* part = from + w * DECODE_HEADS * width;
                float keep = part[head_dim] == NOTHING ? 0.0f : exp_fast(part[head_dim] - largest);
                sum += part[d] * keep;
                total += part[head_dim + 1] * keep;
            }
            if (parts == 1) {
                out[(static_cast<long long>(kv_head) * group + head) * head_dim + i] = sum / total;
            } else {
                float* to = own_part + (head + i / head_dim) * width;
                to[d] = sum;
                if (d == 0) to[head_dim] = largest, to[head_dim + 1] = total;
            }
        }
        __syncthreads();
    }
    if (parts == 1) return;

    // Every part of this block is there for all before it counts itself; the last one sees all parts.
    if (threadIdx.x == 0) {
        __threadfence();
        *is_last = atomicAdd(counter + kv_head, 1u) == static_cast<u32>(parts - 1);
        __threadfence();
    }
    __syncthreads();
    if (!*is_last) return;
    const float* all = partial + static_cast<long long>(kv_head) * splits * group * width;
#pragma unroll 1
    for (int i = threadIdx.x; i < group * head_dim; i += DECODE) {
        const float* from = all + i / head_dim * width;
        int d = i % head_dim;
        float largest = NOTHING, sum = 0, total = 0;
        for (int p = 0; p < parts; p++) largest = fmaxf(largest, load_fresh(from + p * group * width + head_dim));
        for (int p = 0; p < parts; p++) {
            const float* part = from + p * group * width;
            float keep = exp_fast(load_fresh(part + head_dim) - largest);
            sum += load_fresh(part + d) * keep;
            total += load_fresh(part + head_dim + 1) * keep;
        }
        out[static_cast<long long>(kv_head) * group * head_dim + i] = sum / total;
    }
    if (threadIdx.x == 0) counter[kv_head] = 0;
}

#define DECODE_KERNEL(name, T, blocks)                                                                                 \
    KERNEL(256, blocks, name, const float* q, const float* k, const float* v, const float* cosines, const float* sines,    \
           const float* q_norm, const float* k_norm, T* cache_k, T* cache_v, float* out, float* partial, u32* counter,     \
           const Step* step, int heads, int kv_heads, int head_dim, int rotary_dim, int positions, int window, int splits, \
           float eps, float scale, float cap) {                                                                        \
        decode(q, k, v, cosines, sines, q_norm, k_norm, cache_k, cache_v, out, partial, counter, step, heads, kv_heads,    \
               head_dim, rotary_dim, positions, window, splits, eps, scale, cap);                                      \
    }

// Grid (kv_heads, splits), block 256, shared 4 (heads / kv_heads * head_dim + 32 (head_dim + 2) + 4) bytes. head_dim is a multiple of
// 8 up to 256, `positions` one of 16. partial: f32 [kv_heads][splits][heads / kv_heads][head_dim + 2]. counter: u32 [kv_heads], zero
// before the first launch, which each launch leaves so.
DECODE_KERNEL(decode_f32, float, 1)
DECODE_KERNEL(decode_f16, u16, 2)
