/* SPDX-License-Identifier: MIT */
/* tests/emu/async.cc - copies that land late, and the memory barriers they land on.
 *
 * A copy poisons its target when it is asked for, and brings its bytes when somebody waits: whoever
 * still reads the old contents, or reads the new too early, sees NaN. The state of a memory
 * barrier is kept here; its 8 bytes hold a mark, so that what overwrites it is noticed. */
#include "inside.h"

#define MARK 0x6d6261722d656d75ull
#define MAX_TX ((1 << 20) - 1)

/* What happens at once, some time: a bulk copy lands, or all that a thread's cp_async16 asked for
 * until its cp_async_arrive(). */
struct landing {
	std::vector<emu_copy> copies;
	uint32_t tx;
	bool arrive;
};

struct mbar {
	uint64_t *at;
	uint32_t count, left; /* arrivals of a phase; those it still waits for */
	int64_t tx;           /* bytes it waits for */
	uint32_t parity;      /* of the phase under way */
	uint32_t waiting[32];
	bool waited;          /* somebody is in waiting[] */
	std::vector<landing> coming;
};

static std::vector<mbar> bars;
static long idle_tries; /* in a row, that found nothing */

void emu_async_begin(void)
{
	bars.clear();
	idle_tries = 0;
}

static void land(const struct emu_copy *c)
{
	if (c->src)
		memcpy(c->dst, c->src, c->bytes);
	else
		memset(c->dst, 0, c->bytes);
}

static struct mbar *find(uint64_t *b, const char *what, const char *file, int line)
{
	for (mbar &m : bars) {
		if (m.at != b)
			continue;
		if (*b != (MARK ^ (uintptr_t)b))
			emu_fail(file, line, "%s: the memory barrier's 8 bytes were overwritten", what);
		return &m;
	}
	emu_fail(file, line, "%s of a memory barrier that mbar_init() did not see in this block", what);
}

static void wake_waiters(struct mbar *m)
{
	for (int i = 0; m->waited && i < emu.n_warps; i++) {
		emu_wake(i, m->waiting[i]);
		m->waiting[i] = 0;
	}
	m->waited = false;
}

static void phase_check(struct mbar *m)
{
	if (m->left || m->tx)
		return;
	m->parity ^= 1;
	m->left = m->count;
	wake_waiters(m);
	idle_tries = 0;
}

static void deliver(struct mbar *m, size_t i)
{
	struct landing c = m->coming[i];

	m->coming.erase(m->coming.begin() + (long)i);
	for (const emu_copy &p : c.copies)
		land(&p);
	if (c.arrive && !m->left)
		emu_fail(NULL, 0, "cp_async_arrive: the phase's %u arrivals are all there", m->count);
	m->left -= c.arrive;
	m->tx -= c.tx;
	phase_check(m);
}

static void deliver_all(struct mbar *m)
{
	while (!m->coming.empty())
		deliver(m, emu_random() % m->coming.size());
}

bool emu_async_deliver(void)
{
	size_t n = bars.size(), from = n ? emu_random() % n : 0;

	for (size_t i = 0; i < n; i++) {
		struct mbar *m = &bars[(from + i) % n];

		if (m->waited && !m->coming.empty())
			return deliver(m, emu_random() % m->coming.size()), true;
	}
	return false;
}

void mbar_init(uint64_t *b, uint32_t n, const char *file, int line)
{
	struct mbar m = {};

	if (!emu_is_shared(b, 8) || ((uintptr_t)b & 7))
		emu_fail(file, line, "mbar_init: not 8 bytes of shared memory at a multiple of 8");
	if (n < 1 || n > MAX_TX)
		emu_fail(file, line, "mbar_init: %u arrivals", n);
	for (mbar &o : bars)
		if (o.at == b)
			emu_fail(file, line, "mbar_init of a memory barrier that is one already");
	m.at = b, m.count = m.left = n;
	*b = MARK ^ (uintptr_t)b;
	bars.push_back(m);
	emu_maybe_yield();
}

void mbar_arrive(uint64_t *b, const char *file, int line)
{
	struct mbar *m = find(b, "mbar_arrive", file, line);

	if (!m->left)
		emu_fail(file, line, "mbar_arrive: the phase's %u arrivals are all there", m->count);
	m->left--;
	phase_check(m);
	emu_maybe_yield();
}

void mbar_expect(uint64_t *b, uint32_t bytes, const char *file, int line)
{
	struct mbar *m = find(b, "mbar_expect", file, line);

	m->tx += bytes;
	if (m->tx > MAX_TX)
		emu_fail(file, line, "mbar_expect: %lld bytes under way, a phase counts %d", (long long)m->tx, MAX_TX);
	mbar_arrive(b, file, line);
}

bool mbar_try(uint64_t *b, uint32_t parity, const char *file, int line)
{
	struct mbar *m = find(b, "mbar_try", file, line);

	if (m->parity == (parity & 1))
		deliver_all(m);
	if (m->parity != (parity & 1))
		return true;
	if (++idle_tries > 1000000)
		emu_fail(file, line, "mbar_try: a million tries, and no phase of any memory barrier ended");
	emu_yield();
	m = find(b, "mbar_try", file, line);
	return m->parity != (parity & 1);
}

void mbar_wait(uint64_t *b, uint32_t parity, const char *file, int line)
{
	struct emu_fiber *me = emu.cur;
	struct mbar *m = find(b, "mbar_wait", file, line);

	if (m->parity == (parity & 1))
		deliver_all(m);
	while (m->parity == (parity & 1)) {
		m->waiting[me->id >> 5] |= 1u << (me->id & 31);
		m->waited = true;
		emu_block_on(EMU_AT_MBAR, "mbar_wait", file, line);
		m = find(b, "mbar_wait", file, line);
	}
	emu_maybe_yield();
}

void bulk_load(void *smem, const void *global, uint32_t bytes, uint64_t *bar, uint64_t policy, const char *file, int line)
{
	struct mbar *m = find(bar, "bulk_load", file, line);

	(void)policy;
	if (((uintptr_t)smem & 15) || ((uintptr_t)global & 15) || (bytes & 15) || !bytes)
		emu_fail(file, line, "bulk_load of %u bytes from %p to %p: all must be multiples of 16", bytes, global, smem);
	if (!emu_is_shared(smem, bytes))
		emu_fail(file, line, "bulk_load: the target is not in shared memory, or not all of it");
	memset(smem, EMU_POISON, bytes);
	m->coming.push_back({ { { (char *)smem, (const char *)global, bytes } }, bytes, false });
	emu_maybe_yield();
}

void cp_async16(void *smem, const void *global, bool ok, const char *file, int line)
{
	if (((uintptr_t)smem & 15) || (ok && ((uintptr_t)global & 15)))
		emu_fail(file, line, "cp_async16 from %p to %p: both must be multiples of 16", global, smem);
	if (!emu_is_shared(smem, 16))
		emu_fail(file, line, "cp_async16: the target is not in shared memory");
	memset(smem, EMU_POISON, 16);
	emu.cur->copies.push_back({ (char *)smem, ok ? (const char *)global : NULL, 16 });
}

void cp_async_commit(void) { emu.cur->groups.push_back(emu.cur->copies.size()); }

void emu_cp_async_wait(int n)
{
	struct emu_fiber *f = emu.cur;
	size_t done, old;

	if (f->groups.size() <= (size_t)n)
		return;
	old = f->groups.size() - (size_t)n;
	done = f->groups[old - 1];
	for (size_t i = 0; i < done; i++)
		land(&f->copies[i]);
	f->copies.erase(f->copies.begin(), f->copies.begin() + (long)done);
	f->groups.erase(f->groups.begin(), f->groups.begin() + (long)old);
	for (size_t &g : f->groups)
		g -= done;
	emu_maybe_yield();
}

void cp_async_arrive(uint64_t *bar, const char *file, int line)
{
	struct mbar *m = find(bar, "cp_async_arrive", file, line);

	m->coming.push_back({ emu.cur->copies, 0, true });
	emu.cur->copies.clear();
	for (size_t &g : emu.cur->groups)
		g = 0;
	emu_maybe_yield();
}

void emu_async_thread_end(struct emu_fiber *f)
{
	if (!f->copies.empty())
		emu_fail(NULL, 0, "the thread ends while %zu of its cp_async16 are under way", f->copies.size());
	f->groups.clear();
}

void emu_async_end(void)
{
	for (mbar &m : bars)
		for (const landing &c : m.coming)
			if (!c.copies.empty())
				emu_fail(NULL, 0, "block (%u,%u,%u) ended while %zu copies to a memory barrier were under way",
					blockIdx.x, blockIdx.y, blockIdx.z, m.coming.size());
}

uint4 load16_stream(const void *p, const char *file, int line)
{
	uint4 v;

	if ((uintptr_t)p & 15)
		emu_fail(file, line, "load16_stream: %p is not a multiple of 16", p);
	memcpy(&v, p, 16);
	return v;
}
