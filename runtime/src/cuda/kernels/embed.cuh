// Rows of the embedding's table, read out of its panels (docs/nsv.md): 16 rows side by side.
//
// out[t] = table[ids[t]] * factor: [tokens, hidden]. Grid tokens, block 256, no shared memory.

const int PANEL_ROWS = 16;
/// Bytes of 64 columns of a panel in q8: two times 16 scales in f16, then 16 groups of 4 columns x 16 rows x 1 byte.
const int Q8_BYTES = 1088;

INLINE float value_f32(const u8* table, u32 id, int column, int columns) {
    const float* panel = reinterpret_cast<const float*>(table) + static_cast<long long>(id / PANEL_ROWS) * columns * PANEL_ROWS;
    return panel[static_cast<long long>(column) * PANEL_ROWS + id % PANEL_ROWS];
}

INLINE float value_f16(const u8* table, u32 id, int column, int columns) {
    const u16* panel = reinterpret_cast<const u16*>(table) + static_cast<long long>(id / PANEL_ROWS) * columns * PANEL_ROWS;
    return half_to_float(panel[static_cast<long long>(column) * PANEL_ROWS + id % PANEL_ROWS]);
}

INLINE float value_q8(const u8* table, u32 id, int column, int columns) {
    int row = id % PANEL_ROWS, within = column % 64;
    const u8* bytes = table + (static_cast<long long>(id / PANEL_ROWS) * ceil_div(columns, 64) + column / 64) * Q8_BYTES;
    float scale = half_to_float(reinterpret_cast<const u16*>(bytes)[within / 32 * PANEL_ROWS + row]);
    return scale * static_cast<signed char>(bytes[64 + within / 4 * 64 + row * 4 + within % 4]);
}

#define EMBED(encoding)                                                                                                \
    KERNEL(256, 4, embed_##encoding, const u8* table, const u32* ids, float* out, int tokens, int hidden, float factor) {  \
        wait_for_previous();                                                                                           \
        if (static_cast<int>(blockIdx.x) >= tokens) return;                                                            \
        u32 id = ids[blockIdx.x];                                                                                      \
        float* row = out + static_cast<long long>(blockIdx.x) * hidden;                                                \
        for (int i = threadIdx.x; i < hidden; i += SMALL) row[i] = value_##encoding(table, id, i, hidden) * factor;    \
    }

EMBED(f32)
EMBED(f16)
EMBED(q8)
