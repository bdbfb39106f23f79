// Attention, plain and general: the twin of flash.cuh and decode.cuh, and what runs where they do not.
//
// Query row r, at position step->first + offset + r, sees its own position and those before it, the last `window` of them
// where window > 0. A block is one row of one query head: positions in tiles of 128, one a thread, with the softmax's
// running maximum; the weighted sum of values goes by dimension.

const int TILE_POSITIONS = 128;

/// cap * tanh(score / cap), or the score where there is no cap: tanh(x) = 1 - 2 / (exp(2 x) + 1), off by a few 2^-24 of cap.
INLINE float capped(float score, float cap) {
    return cap > 0 ? cap - __fdividef(2 * cap, exp2_fast(score * __fdividef(2.8853900817779268f, cap)) + 1) : score;
}

/// The first position that a token at `position` sees.
INLINE long long first_seen(long long position, int window) {
    long long first = position + 1 - window;
    return window > 0 && first > 0 ? first : 0;
}

template <class T>
INLINE void attention(const float* q, const T* cache_k, const T* cache_v, float* out, const Step* step, int offset,
                      int rows, int heads, int kv_heads, int head_dim, int positions, int window, float scale, float cap) {
    wait_for_previous();
    float* query = reinterpret_cast<float*>(shared_bytes()); // [head_dim]
    float* weights = query + head_dim;                       // [128]
    float* space = weights + TILE_POSITIONS;                 // [8]
    int row = blockIdx.x, head = blockIdx.y, t = threadIdx.x, warp = t / WARP;
    if (row >= rows) return;
    long long own = static_cast<long long>(row) * heads * head_dim + static_cast<long long>(head) * head_dim;
    long long position = static_cast<long long>(step->first) + offset + row;
    long long kv_head = static_cast<long long>(head / (heads / kv_heads)) * positions;
    for (int d = t; d < head_dim; d += TILE_POSITIONS) query[d] = q[own + d] * scale;
    __syncthreads();
    float largest = NOTHING, total = 0, sum[2] = {0, 0}; // of dimensions t and t + 128
    for (long long tile = first_seen(position, window); tile <= position; tile += TILE_POSITIONS) {
        float score = NOTHING;
        if (tile + t <= position) {
            const T* key = cache_k + (kv_head + (tile + t) % positions) * head_dim;
            score = 0;
            for (int d = 0; d < head_dim; d++) score += query[d] * widen(key[d]);
            score = capped(score, cap);
        }
        float tile_max = warp_max(score);
        if (t % WARP == 0) space[warp] = tile_max;
        __syncthreads();
        float before = largest;
        for (int w = 0; w < 4; w++) largest = fmaxf(largest, space[w]);
        float weight = expf(score - largest), keep = expf(before - largest);
        weights[t] = weight;
        float tile_sum = warp_sum(weight);
        if (t % WARP == 0) space[4 + warp] = tile_sum;
        __syncthreads();
        total = total * keep + (space[4] + space[5] + (space[6] + space[7]));
        int seen = static_cast<int>(min(position + 1 - tile, static_cast<long long>(TILE_POSITIONS)));
        for (int part = 0; part < 2; part++) {
            int d = t + part * TILE_POSITIONS;
            if (d >= head_dim) break;
            float s = 0;
            for (int i = 0; i < seen; i++) s += weights[i] * widen(cache_v[(kv_head + (tile + i) % positions) * head_dim + d]);
            sum[part] = sum[part] * keep + s;
        }
        // The next tile's first barrier stands between these reads and the writes behind it.
    }
    for (int part = 0; part < 2; part++)
        if (t + part * TILE_POSITIONS < head_dim) out[own + t + part * TILE_POSITIONS] = sum[part] / total;
}

#define ATTENTION(name, T)                                                                                             \
    KERNEL(128, 4, name, const float* q, const T* cache_k, const T* cache_v, float* out, const Step* step, int offset,     \
           int rows, int heads, int kv_heads, int head_dim, int positions, int window, float scale, float cap) {           \
        attention(q, cache_k, cache_v, out, step, offset, rows, heads, kv_heads, head_dim, positions, window, scale, cap); \
    }

/// Grid (rows, heads), block 128, shared 4 head_dim + 544 bytes; head_dim up to 256.
ATTENTION(attention_f32, float)
ATTENTION(attention_f16, u16)
