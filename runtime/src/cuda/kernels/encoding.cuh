// How a warp multiplies panels with one token's row, for each encoding (docs/nsv.md). A panel is 16 rows, side by side.
//
// `own` is where a lane's share of a step begins. A step of a warp is 64 bytes a lane: four loads of 16, all in flight before the first is used. Whole sectors of 32
// bytes are read, and mostly whole lines, in the file's order. A lane's rows begin at ROWS * (lane % SPREAD), and all lanes with
// the same lane % SPREAD add to the same rows. The row is staged in shared memory by all threads of the block; lanes read it
// without bank conflicts, as no more than 32 words in different banks, the same word for lanes of the same column.

/// The block's threads queue copies of a row of `cols` to shared memory, zeros behind its end up to `padded`: no registers
/// are needed while they are under way. Thread t has elements 4 t..4 t + 4, and so on.
template <int THREADS> INLINE void fetch_row(float* to, const float* from, int cols, int padded) {
#pragma unroll 1
    for (int k = 4 * threadIdx.x; k < padded; k += 4 * THREADS) {
        if (cols % 4 == 0)
            copy_async16(shared_address(to + k), from + k, k < cols);
        else
            for (int i = k; i < k + 4; i++) to[i] = i < cols ? from[i] : 0.0f;
    }
}

/// Elements k..k+4 of the fetched row, times the norm's weights where there are some; adds the row's squares to `squares`.
INLINE float4 input4(const float* x, const float* norm, int k, float& squares) {
    float4 v = *reinterpret_cast<const float4*>(x + k);
    if (norm) {
        float4 n = *reinterpret_cast<const float4*>(norm + k);
        squares += v.x * v.x + v.y * v.y + (v.z * v.z + v.w * v.w);
        v = float4{v.x * n.x, v.y * n.y, v.z * n.z, v.w * n.w};
    }
    return v;
}

/// A row as it is.
struct FloatRow {
    const float* values; // [padded]

    /// From what this thread fetched; returns its part of the sum of squares.
    template <int THREADS> INLINE float stage(float* x, const float* norm, u8*, int padded) {
        float squares = 0;
        values = x;
        if (norm)
#pragma unroll 1
            for (int k = 4 * threadIdx.x; k < padded; k += 4 * THREADS)
                *reinterpret_cast<float4*>(x + k) = input4(x, norm, k, squares);
        return squares;
    }
};

/// A row rounded to bytes in blocks of 32 columns by the rule of docs/arithmetic.md, each with its scale.
struct ByteRow {
    const int* words;    // [padded / 4]
    const float* scales; // [padded / 32]

    template <int THREADS> INLINE float stage(float* x, const float* norm, u8* space, int padded) {
        float squares = 0;
        u32* bytes = reinterpret_cast<u32*>(space);
        float* sizes = reinterpret_cast<float*>(space + padded);
        words = reinterpret_cast<const int*>(space), scales = sizes;
        // Eight neighbouring lanes have a block; a warp's 128 columns are all below `padded` or none.
#pragma unroll 1
        for (int k = 4 * threadIdx.x; k < padded; k += 4 * THREADS) {
            float4 v = input4(x, norm, k, squares);
            float largest = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
#pragma unroll
            for (int bit = 4; bit > 0; bit /= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, bit));
            float inverse = largest < 1e-30f ? 0.0f : __fdividef(127.0f, largest);
            u32 a = __float2int_rn(v.x * inverse) & 0xff, b = __float2int_rn(v.y * inverse) & 0xff;
            u32 c = __float2int_rn(v.z * inverse) & 0xff, d = __float2int_rn(v.w * inverse) & 0xff;
            bytes[k / 4] = a | b << 8 | c << 16 | d << 24;
            if (k % 32 == 0) sizes[k / 32] = largest < 1e-30f ? 0.0f : largest * (1.0f / 127.0f);
        }
        return squares;
    }
};

/// Panels of plain numbers: 16 bytes of a lane are LANE_ROWS rows of a column.
template <int LANE_ROWS> struct Plain {
    typedef FloatRow Row;
    static const int ROWS = LANE_ROWS, STEP = 8 * ROWS, STEP_BYTES = 2048, SPREAD = PANEL_ROWS / ROWS;
    struct Weights { uint4 w[4]; };

    static INLINE long long panel_bytes(int cols) { return static_cast<long long>(STEP_BYTES / STEP) * cols; }

    /// Where a lane's share of a panel begins.
    static INLINE int lane_offset(int lane) { return 16 * lane; }

    /// The column of load i.
    static INLINE int column(int step, int i, int lane) { return step * STEP + STEP / 4 * i + lane / SPREAD; }

    static INLINE void load(Weights& to, const u8* own, int step, int lane, int cols) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            to.w[i] = column(step, i, lane) < cols ? load_weights16(own + 512 * i) : uint4{0, 0, 0, 0};
    }
};

struct F32 : Plain<4> {
    static INLINE void add(float (&sums)[ROWS], const Weights& from, const Row& row, int step, int lane) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float x = row.values[column(step, i, lane)];
            sums[0] += __uint_as_float(from.w[i].x) * x;
            sums[1] += __uint_as_float(from.w[i].y) * x;
            sums[2] += __uint_as_float(from.w[i].z) * x;
            sums[3] += __uint_as_float(from.w[i].w) * x;
        }
    }
};

struct F16 : Plain<8> {
    static INLINE void add(float (&sums)[ROWS], const Weights& from, const Row& row, int step, int lane) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float x = row.values[column(step, i, lane)];
            u32 pairs[4] = {from.w[i].x, from.w[i].y, from.w[i].z, from.w[i].w};
#pragma unroll
            for (int p = 0; p < 4; p++) {
                sums[2 * p] += half_to_float(low_half(pairs[p])) * x;
                sums[2 * p + 1] += half_to_float(high_half(pairs[p])) * x;
            }
        }
    }
};

/// Eight lanes have a block of 32 columns, a lane of it 4 rows of 4 groups of 4 columns: their products are one whole number.
struct Q8 {
    typedef ByteRow Row;
    static const int STEP = 128, STEP_BYTES = 2 * Q8_BYTES, ROWS = 4, SPREAD = 4;
    struct Weights { uint4 w[4]; uint2 scales; };

    static INLINE long long panel_bytes(int cols) { return static_cast<long long>(ceil_div(cols, 64)) * Q8_BYTES; }

    // Lanes 0..16 have 64 columns, two blocks, lanes 16..32 the next 64.
    static INLINE int lane_offset(int lane) { return lane / 16 * Q8_BYTES + lane / 8 % 2 * 512 + lane % 8 * 16; }

    static INLINE void load(Weights& to, const u8* own, int step, int lane, int cols) {
        bool there = step * STEP + lane / 16 * 64 < cols;
        const u8* scales = own - lane / 8 % 2 * 480 - lane % 8 * 16 + lane % 4 * 8;
#pragma unroll
        for (int i = 0; i < 4; i++) to.w[i] = there ? load_weights16(own + 64 + 128 * i) : uint4{0, 0, 0, 0};
        to.scales = there ? load_weights8(scales) : uint2{0, 0};
    }

    static INLINE void add(float (&sums)[ROWS], const Weights& from, const Row& row, int step, int lane) {
        int block = 4 * step + lane / 8, dots[4] = {0, 0, 0, 0};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int x = row.words[8 * block + 2 * i + lane / 4 % 2];
            dots[0] = __dp4a(static_cast<int>(from.w[i].x), x, dots[0]);
            dots[1] = __dp4a(static_cast<int>(from.w[i].y), x, dots[1]);
            dots[2] = __dp4a(static_cast<int>(from.w[i].z), x, dots[2]);
            dots[3] = __dp4a(static_cast<int>(from.w[i].w), x, dots[3]);
        }
        float scale = row.scales[block];
        sums[0] += static_cast<float>(dots[0]) * (half_to_float(low_half(from.scales.x)) * scale);
        sums[1] += static_cast<float>(dots[1]) * (half_to_float(high_half(from.scales.x)) * scale);
        sums[2] += static_cast<float>(dots[2]) * (half_to_float(low_half(from.scales.y)) * scale);
        sums[3] += static_cast<float>(dots[3]) * (half_to_float(high_half(from.scales.y)) * scale);
    }
};
