/* SPDX-License-Identifier: MIT */
/* tests/emu/warp.cc - what the lanes of a warp do together: shuffles, votes, matrices. */
#include "inside.h"

static const char *const names[] = { "a shuffle", "__syncwarp", "a vote", "__match_any_sync", "__match_all_sync",
	"__reduce_add_sync", "__reduce_min_sync", "__reduce_max_sync", "__reduce_min_sync", "__reduce_max_sync",
	"__reduce_and_sync", "__reduce_or_sync", "__reduce_xor_sync", "ldmatrix4", "ldmatrix4_trans", "ldmatrix2",
	"ldmatrix2_trans", "movmatrix", "mma16816<bf16>", "mma16816<f16>" };

const char *emu_op_name(int op) { return names[op]; }
int emu_lane(void) { return emu.cur->id & 31; }
unsigned emu_activemask(void) { return emu_warp_of(emu.cur)->live; }

static uint64_t reduce(const struct emu_warp *w, int op, uint32_t mask)
{
	uint64_t r = w->in[__builtin_ctz(mask)];

	for (uint32_t m = mask & (mask - 1); m; m &= m - 1) {
		uint32_t x = (uint32_t)w->in[__builtin_ctz(m)], y = (uint32_t)r;

		switch (op) {
		case EMU_ADD_U: r = (uint32_t)(x + y); break;
		case EMU_MIN_U: r = x < y ? x : y; break;
		case EMU_MAX_U: r = x > y ? x : y; break;
		case EMU_MIN_I: r = (int32_t)x < (int32_t)y ? x : y; break;
		case EMU_MAX_I: r = (int32_t)x > (int32_t)y ? x : y; break;
		case EMU_AND: r = x & y; break;
		case EMU_OR: r = x | y; break;
		case EMU_XOR: r = x ^ y; break;
		}
	}
	return r;
}

static uint64_t vote(const struct emu_warp *w, int op, uint32_t mask)
{
	uint64_t r = 0;
	int first = __builtin_ctz(mask);

	for (uint32_t m = mask; m; m &= m - 1) {
		int l = __builtin_ctz(m);

		if (op == EMU_BALLOT)
			r |= w->in[l] << l;
		else if (w->in[l] != w->in[first])
			return 0;
		else
			r |= 1ull << l;
	}
	return r;
}

static void each(struct emu_warp *w, uint32_t mask, uint64_t x)
{
	for (uint32_t m = mask; m; m &= m - 1)
		w->out[__builtin_ctz(m)] = x;
}

static void complete(struct emu_warp *w, int op, uint32_t mask, const char *file, int line)
{
	switch (op) {
	case EMU_SYNCWARP:
		break;
	case EMU_SHFL: /* what a lane that does not take part would give is undefined */
		for (uint32_t m = mask; m; m &= m - 1) {
			int l = __builtin_ctz(m);

			w->out[l] = mask >> w->src[l] & 1 ? w->in[w->src[l]] : ~0ull;
		}
		break;
	case EMU_BALLOT: case EMU_MATCH_ALL:
		each(w, mask, vote(w, op, mask));
		break;
	case EMU_MATCH_ANY:
		for (uint32_t m = mask; m; m &= m - 1) {
			int l = __builtin_ctz(m);

			w->out[l] = 0;
			for (uint32_t n = mask; n; n &= n - 1)
				w->out[l] |= (uint64_t)(w->in[l] == w->in[__builtin_ctz(n)]) << __builtin_ctz(n);
		}
		break;
	case EMU_ADD_U: case EMU_MIN_U: case EMU_MAX_U: case EMU_MIN_I: case EMU_MAX_I: case EMU_AND: case EMU_OR: case EMU_XOR:
		each(w, mask, reduce(w, op, mask));
		break;
	default:
		emu_matrix_op(w, op, file, line);
	}
}

/* A lane that waits for this one elsewhere will wait for ever, if this one waits for it here. */
static void check_divergence(const struct emu_warp *w, int op, uint32_t mask, int me, const char *file, int line)
{
	for (uint32_t m = w->pending & mask; m; m &= m - 1) {
		int l = __builtin_ctz(m);
		const struct emu_fiber *f = &emu.fibers[(emu.cur->id & ~31) + l];

		if ((w->op[l] != op || w->mask[l] != mask) && (w->mask[l] >> me & 1))
			emu_fail(file, line, "divergence: %s of lanes %08x here, while lane %d waits in %s of lanes %08x at %s:%d",
				names[op], mask, l, names[w->op[l]], w->mask[l], f->file, f->line);
	}
}

static bool all_here(const struct emu_warp *w, int op, uint32_t mask)
{
	if ((w->pending & mask) != mask)
		return false;
	for (uint32_t m = w->uniform ? 0 : mask; m; m &= m - 1)
		if (w->op[__builtin_ctz(m)] != op || w->mask[__builtin_ctz(m)] != mask)
			return false;
	return true;
}

static void meet(int op, uint32_t mask, const char *file, int line)
{
	struct emu_warp *w = emu_warp_of(emu.cur);
	int me = emu.cur->id & 31;

	if (!(mask >> me & 1))
		emu_fail(file, line, "%s of lanes %08x, called by lane %d", names[op], mask, me);
	if (mask & ~w->live)
		emu_fail(file, line, "divergence: %s of lanes %08x: lanes %08x have ended, or never were", names[op], mask, mask & ~w->live);
	if (w->pending) {
		int l = __builtin_ctz(w->pending);

		if (w->uniform && (w->op[l] != op || w->mask[l] != mask))
			w->uniform = false;
		if (!w->uniform)
			check_divergence(w, op, mask, me, file, line);
	} else {
		w->uniform = true;
	}
	w->op[me] = op, w->mask[me] = mask;
	w->pending |= 1u << me;
	if (!all_here(w, op, mask)) {
		emu_block_on(EMU_AT_WARP, names[op], file, line);
		return;
	}
	complete(w, op, mask, file, line);
	w->pending &= ~mask;
	emu_wake(emu.cur->id >> 5, mask & ~(1u << me));
	emu_maybe_yield();
}

uint64_t emu_meet(int op, uint32_t mask, uint64_t x, int src, const char *file, int line)
{
	struct emu_warp *w = emu_warp_of(emu.cur);
	int me = emu.cur->id & 31;

	w->in[me] = x, w->src[me] = src & 31;
	meet(op, mask, file, line);
	return w->out[me];
}

void emu_meet_mma(int op, float *d, const uint32_t *a, const uint32_t *b, const char *file, int line)
{
	struct emu_warp *w = emu_warp_of(emu.cur);
	int me = emu.cur->id & 31;

	w->d[me] = d, w->a[me] = a, w->b[me] = b;
	meet(op, 0xffffffff, file, line);
}

void emu_meet_ld(int op, uint32_t *r, const void *row, const char *file, int line)
{
	struct emu_warp *w = emu_warp_of(emu.cur);
	int me = emu.cur->id & 31;

	w->d[me] = r, w->a[me] = row;
	meet(op, 0xffffffff, file, line);
}
