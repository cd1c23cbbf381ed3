/* SPDX-License-Identifier: MIT */
/* hf_unicode.c - decides which characters are letters, numbers, spaces, punctuation, words.
 *
 * The reference has more than one answer: its regexes (Oniguruma) and its case mapping know
 * Unicode 16 and 17, its punctuation and its combining marks are those of Unicode 8 or so.
 * utf8proc 2.8 knows Unicode 15, PCRE2 10.42 knows 14. The tables here are the differences, found
 * by asking the reference about every code point. */
#include "hf.h"

#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

/* Characters that came after Unicode 14, and their categories in 16. */
static const struct late {
	uint32_t from, to;
	char cat[2];
} late[] = {
	{ 0x897, 0x897, "Mn" }, { 0xCF3, 0xCF3, "Mc" }, { 0xECE, 0xECE, "Mn" },
	{ 0x1B4E, 0x1B4F, "Po" }, { 0x1B7F, 0x1B7F, "Po" }, { 0x1C89, 0x1C89, "Lu" },
	{ 0x1C8A, 0x1C8A, "Ll" }, { 0x2427, 0x2429, "So" }, { 0x2FFC, 0x2FFF, "So" },
	{ 0x31E4, 0x31E5, "So" }, { 0x31EF, 0x31EF, "So" }, { 0xA7CB, 0xA7CC, "Lu" },
	{ 0xA7CD, 0xA7CD, "Ll" }, { 0xA7DA, 0xA7DA, "Lu" }, { 0xA7DB, 0xA7DB, "Ll" },
	{ 0xA7DC, 0xA7DC, "Lu" }, { 0x105C0, 0x105F3, "Lo" }, { 0x10D40, 0x10D49, "Nd" },
	{ 0x10D4A, 0x10D4D, "Lo" }, { 0x10D4E, 0x10D4E, "Lm" }, { 0x10D4F, 0x10D4F, "Lo" },
	{ 0x10D50, 0x10D65, "Lu" }, { 0x10D69, 0x10D6D, "Mn" }, { 0x10D6E, 0x10D6E, "Pd" },
	{ 0x10D6F, 0x10D6F, "Lm" }, { 0x10D70, 0x10D85, "Ll" }, { 0x10D8E, 0x10D8F, "Sm" },
	{ 0x10EC2, 0x10EC4, "Lo" }, { 0x10EFC, 0x10EFF, "Mn" }, { 0x1123F, 0x11240, "Lo" },
	{ 0x11241, 0x11241, "Mn" }, { 0x11380, 0x11389, "Lo" }, { 0x1138B, 0x1138B, "Lo" },
	{ 0x1138E, 0x1138E, "Lo" }, { 0x11390, 0x113B5, "Lo" }, { 0x113B7, 0x113B7, "Lo" },
	{ 0x113B8, 0x113BA, "Mc" }, { 0x113BB, 0x113C0, "Mn" }, { 0x113C2, 0x113C2, "Mc" },
	{ 0x113C5, 0x113C5, "Mc" }, { 0x113C7, 0x113CA, "Mc" }, { 0x113CC, 0x113CD, "Mc" },
	{ 0x113CE, 0x113CE, "Mn" }, { 0x113CF, 0x113CF, "Mc" }, { 0x113D0, 0x113D0, "Mn" },
	{ 0x113D1, 0x113D1, "Lo" }, { 0x113D2, 0x113D2, "Mn" }, { 0x113D3, 0x113D3, "Lo" },
	{ 0x113D4, 0x113D5, "Po" }, { 0x113D7, 0x113D8, "Po" }, { 0x113E1, 0x113E2, "Mn" },
	{ 0x116D0, 0x116E3, "Nd" }, { 0x11B00, 0x11B09, "Po" }, { 0x11BC0, 0x11BE0, "Lo" },
	{ 0x11BE1, 0x11BE1, "Po" }, { 0x11BF0, 0x11BF9, "Nd" }, { 0x11F00, 0x11F01, "Mn" },
	{ 0x11F02, 0x11F02, "Lo" }, { 0x11F03, 0x11F03, "Mc" }, { 0x11F04, 0x11F10, "Lo" },
	{ 0x11F12, 0x11F33, "Lo" }, { 0x11F34, 0x11F35, "Mc" }, { 0x11F36, 0x11F3A, "Mn" },
	{ 0x11F3E, 0x11F3F, "Mc" }, { 0x11F40, 0x11F40, "Mn" }, { 0x11F41, 0x11F41, "Mc" },
	{ 0x11F42, 0x11F42, "Mn" }, { 0x11F43, 0x11F4F, "Po" }, { 0x11F50, 0x11F59, "Nd" },
	{ 0x11F5A, 0x11F5A, "Mn" }, { 0x1342F, 0x1342F, "Lo" }, { 0x13440, 0x13440, "Mn" },
	{ 0x13441, 0x13446, "Lo" }, { 0x13447, 0x13455, "Mn" }, { 0x13460, 0x143FA, "Lo" },
	{ 0x16100, 0x1611D, "Lo" }, { 0x1611E, 0x16129, "Mn" }, { 0x1612A, 0x1612C, "Mc" },
	{ 0x1612D, 0x1612F, "Mn" }, { 0x16130, 0x16139, "Nd" }, { 0x16D40, 0x16D42, "Lm" },
	{ 0x16D43, 0x16D6A, "Lo" }, { 0x16D6B, 0x16D6C, "Lm" }, { 0x16D6D, 0x16D6F, "Po" },
	{ 0x16D70, 0x16D79, "Nd" }, { 0x18CFF, 0x18CFF, "Lo" }, { 0x1B132, 0x1B132, "Lo" },
	{ 0x1B155, 0x1B155, "Lo" }, { 0x1CC00, 0x1CCEF, "So" }, { 0x1CCF0, 0x1CCF9, "Nd" },
	{ 0x1CD00, 0x1CEB3, "So" }, { 0x1D2C0, 0x1D2D3, "No" }, { 0x1DF25, 0x1DF2A, "Ll" },
	{ 0x1E030, 0x1E06D, "Lm" }, { 0x1E08F, 0x1E08F, "Mn" }, { 0x1E4D0, 0x1E4EA, "Lo" },
	{ 0x1E4EB, 0x1E4EB, "Lm" }, { 0x1E4EC, 0x1E4EF, "Mn" }, { 0x1E4F0, 0x1E4F9, "Nd" },
	{ 0x1E5D0, 0x1E5ED, "Lo" }, { 0x1E5EE, 0x1E5EF, "Mn" }, { 0x1E5F0, 0x1E5F0, "Lo" },
	{ 0x1E5F1, 0x1E5FA, "Nd" }, { 0x1E5FF, 0x1E5FF, "Po" }, { 0x1F6DC, 0x1F6DC, "So" },
	{ 0x1F774, 0x1F776, "So" }, { 0x1F77B, 0x1F77F, "So" }, { 0x1F7D9, 0x1F7D9, "So" },
	{ 0x1F8B2, 0x1F8BB, "So" }, { 0x1F8C0, 0x1F8C1, "So" }, { 0x1FA75, 0x1FA77, "So" },
	{ 0x1FA87, 0x1FA89, "So" }, { 0x1FA8F, 0x1FA8F, "So" }, { 0x1FAAD, 0x1FAAF, "So" },
	{ 0x1FABB, 0x1FABF, "So" }, { 0x1FAC6, 0x1FAC6, "So" }, { 0x1FACE, 0x1FACF, "So" },
	{ 0x1FADA, 0x1FADC, "So" }, { 0x1FADF, 0x1FADF, "So" }, { 0x1FAE8, 0x1FAE9, "So" },
	{ 0x1FAF7, 0x1FAF8, "So" }, { 0x1FBCB, 0x1FBEF, "So" }, { 0x2B739, 0x2B739, "Lo" },
	{ 0x2EBF0, 0x2EE5D, "Lo" }, { 0x31350, 0x323AF, "Lo" },
};

/* Punctuation that the reference's older list lacks. */
static const uint32_t late_punct[][2] = {
	{ 0x61D, 0x61D }, { 0x9FD, 0x9FD }, { 0xA76, 0xA76 }, { 0xC77, 0xC77 }, { 0xC84, 0xC84 },
	{ 0x1B7D, 0x1B7E }, { 0x2E43, 0x2E4F }, { 0x2E52, 0x2E5D }, { 0x10EAD, 0x10EAD },
	{ 0x10F55, 0x10F59 }, { 0x10F86, 0x10F89 }, { 0x1144B, 0x1144F }, { 0x1145A, 0x1145B },
	{ 0x1145D, 0x1145D }, { 0x11660, 0x1166C }, { 0x116B9, 0x116B9 }, { 0x1183B, 0x1183B },
	{ 0x11944, 0x11946 }, { 0x119E2, 0x119E2 }, { 0x11A3F, 0x11A46 }, { 0x11A9A, 0x11A9C },
	{ 0x11A9E, 0x11AA2 }, { 0x11B00, 0x11B09 }, { 0x11C41, 0x11C45 }, { 0x11C70, 0x11C71 },
	{ 0x11EF7, 0x11EF8 }, { 0x11F43, 0x11F4F }, { 0x11FFF, 0x11FFF }, { 0x12FF1, 0x12FF2 },
	{ 0x16E97, 0x16E9A }, { 0x16FE2, 0x16FE2 }, { 0x1E95E, 0x1E95F },
};

/* Combining marks that it lacks, so that they are not taken for accents, nor put in order. */
static const uint32_t late_marks[][2] = {
	{ 0x7FD, 0x7FD }, { 0x898, 0x89F }, { 0x8CA, 0x8D3 }, { 0x9FE, 0x9FE }, { 0xAFA, 0xAFF },
	{ 0xB55, 0xB55 }, { 0xC04, 0xC04 }, { 0xC3C, 0xC3C }, { 0xCF3, 0xCF3 }, { 0xD00, 0xD00 },
	{ 0xD3B, 0xD3C }, { 0xD81, 0xD81 }, { 0xEBA, 0xEBA }, { 0xECE, 0xECE },
	{ 0x1715, 0x1715 }, { 0x180F, 0x180F }, { 0x1ABF, 0x1ACE }, { 0x1CF7, 0x1CF7 },
	{ 0x1DF6, 0x1DFA }, { 0xA82C, 0xA82C }, { 0xA8FF, 0xA8FF }, { 0x10D24, 0x10D27 },
	{ 0x10EAB, 0x10EAC }, { 0x10EFD, 0x10EFF }, { 0x10F46, 0x10F50 }, { 0x10F82, 0x10F85 },
	{ 0x11070, 0x11070 }, { 0x11073, 0x11074 }, { 0x110C2, 0x110C2 }, { 0x11145, 0x11146 },
	{ 0x111C9, 0x111C9 }, { 0x111CE, 0x111CF }, { 0x11241, 0x11241 }, { 0x1133B, 0x1133B },
	{ 0x1145E, 0x1145E }, { 0x1182C, 0x1183A }, { 0x11930, 0x11935 }, { 0x11937, 0x11938 },
	{ 0x1193B, 0x1193E }, { 0x11940, 0x11940 }, { 0x11942, 0x11943 }, { 0x119D1, 0x119D7 },
	{ 0x119DA, 0x119E0 }, { 0x119E4, 0x119E4 }, { 0x11A01, 0x11A0A }, { 0x11A33, 0x11A39 },
	{ 0x11A3B, 0x11A3E }, { 0x11A47, 0x11A47 }, { 0x11A51, 0x11A5B }, { 0x11A8A, 0x11A99 },
	{ 0x11D31, 0x11D36 }, { 0x11D3A, 0x11D3A }, { 0x11D3C, 0x11D3D }, { 0x11D3F, 0x11D45 },
	{ 0x11D47, 0x11D47 }, { 0x11D8A, 0x11D8E }, { 0x11D90, 0x11D91 }, { 0x11D93, 0x11D97 },
	{ 0x11EF3, 0x11EF6 }, { 0x11F00, 0x11F01 }, { 0x11F03, 0x11F03 }, { 0x11F34, 0x11F3A },
	{ 0x11F3E, 0x11F42 }, { 0x13440, 0x13440 }, { 0x13447, 0x13455 }, { 0x16F4F, 0x16F4F },
	{ 0x16F7F, 0x16F87 }, { 0x16FE4, 0x16FE4 }, { 0x16FF0, 0x16FF1 }, { 0x1CF00, 0x1CF2D },
	{ 0x1CF30, 0x1CF46 }, { 0x1E08F, 0x1E08F }, { 0x1E130, 0x1E136 }, { 0x1E2AE, 0x1E2AE },
	{ 0x1E2EC, 0x1E2EF }, { 0x1E4EC, 0x1E4EF },
};

/* Numbers of Unicode 17, which Rust's char::is_numeric has and the regexes have not. */
static const uint32_t late_numbers[][2] = { { 0x11DE0, 0x11DE9 }, { 0x16FF4, 0x16FF6 } };

/* Circled letters: Other_Alphabetic among the symbols, part of a word. */
static const uint32_t alphabetic_symbols[][2] = {
	{ 0x24B6, 0x24E9 }, { 0x1F130, 0x1F149 }, { 0x1F150, 0x1F169 }, { 0x1F170, 0x1F189 },
};

/* Compatibility mappings that came after its tables: left alone by NFKC and NFKD. */
static const uint32_t late_compat[][2] = {
	{ 0x32FF, 0x32FF }, { 0xA7F2, 0xA7F4 }, { 0xAB69, 0xAB69 }, { 0x10781, 0x107BA },
	{ 0x11938, 0x11938 }, { 0x1E030, 0x1E06D }, { 0x1F16C, 0x1F16C }, { 0x1FBF0, 0x1FBF9 },
};

/* Upper case that came after Unicode 15: from, to, and how far the lower case lies from it. */
static const struct {
	uint32_t from, to;
	int32_t by;
} late_lower[] = {
	{ 0x1C89, 0x1C89, 1 }, { 0xA7CB, 0xA7CB, 0x264 - 0xA7CB }, { 0xA7CC, 0xA7CC, 1 },
	{ 0xA7CE, 0xA7CE, 1 }, { 0xA7D2, 0xA7D2, 1 }, { 0xA7D4, 0xA7D4, 1 },
	{ 0xA7DA, 0xA7DA, 1 }, { 0xA7DC, 0xA7DC, 0x19B - 0xA7DC }, { 0x10D50, 0x10D65, 0x20 },
	{ 0x16EA0, 0x16EB8, 0x1B },
};

static bool in_ranges(const uint32_t (*r)[2], size_t n, uint32_t c)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (c > r[mid][1])
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < n && c >= r[lo][0];
}

#define IN(table, c) in_ranges(table, sizeof(table) / sizeof(table[0]), c)

static const char *late_category(uint32_t c)
{
	size_t lo = 0, hi = sizeof(late) / sizeof(late[0]), n = hi;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (c > late[mid].to)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < n && c >= late[lo].from ? late[lo].cat : NULL;
}

const char *hf_category(uint32_t c)
{
	const char *cat = utf8proc_category_string((utf8proc_int32_t)c);

	if (cat[0] == 'C' && cat[1] == 'n' && late_category(c))
		return late_category(c);
	return cat;
}

/* White_Space */
int hf_is_space(uint32_t c)
{
	if (c < 0x80)
		return c == ' ' || (c >= 9 && c <= 13);
	return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
		c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

int hf_is_numeric(uint32_t c)
{
	if (c < 0x80)
		return c >= '0' && c <= '9';
	return hf_category(c)[0] == 'N' || IN(late_numbers, c);
}

int hf_is_punct(uint32_t c)
{
	if (c < 0x80)
		return c > ' ' && c < 0x7F && !(c >= '0' && c <= '9') &&
			!((c | 32) >= 'a' && (c | 32) <= 'z');
	return (hf_category(c)[0] == 'P' && !IN(late_punct, c)) || c == 0x166D || c == 0x111C9;
}

/* \w of Rust's regex: Alphabetic, M, Nd, Pc, Join_Control */
int hf_is_word(uint32_t c)
{
	const char *cat = hf_category(c);

	return cat[0] == 'L' || cat[0] == 'M' || !memcmp(cat, "Nd", 2) || !memcmp(cat, "Nl", 2) ||
		!memcmp(cat, "Pc", 2) || c == 0x200C || c == 0x200D || IN(alphabetic_symbols, c);
}

int hf_is_mark(uint32_t c)
{
	return c >= 0x300 && (hf_category(c)[0] == 'M' ? !IN(late_marks, c) : 0);
}

bool hf_is_late_mark(uint32_t c)
{
	return IN(late_marks, c);
}

bool hf_is_late_compat(uint32_t c)
{
	return IN(late_compat, c);
}

uint32_t hf_lower(uint32_t c)
{
	if (c < 0x80)
		return c >= 'A' && c <= 'Z' ? c + 32 : c;
	for (size_t i = 0; i < sizeof(late_lower) / sizeof(late_lower[0]); i++)
		if (c >= late_lower[i].from && c <= late_lower[i].to)
			return c + (uint32_t)late_lower[i].by;
	return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}

void hf_late_ranges(const char *cat, struct json_buf *out)
{
	for (size_t i = 0; i < sizeof(late) / sizeof(late[0]); i++) {
		char text[40];

		if (late[i].cat[0] != cat[0] || (cat[1] && late[i].cat[1] != cat[1]))
			continue;
		snprintf(text, sizeof(text), "\\x{%X}-\\x{%X}", late[i].from, late[i].to);
		json_put(out, text);
	}
}

int hf_classes_init(struct hf *hf)
{
	uint8_t *classes;

	if (hf->classes)
		return NVLLM_OK;
	hf->classes = classes = hf_alloc(hf, HF_CLASSED / 4, 1);
	if (!classes)
		return NVLLM_ENOMEM;
	for (uint32_t c = 0; c < HF_CLASSED; c++) {
		char cat = hf_category(c)[0];
		unsigned k = hf_is_space(c) ? HF_SPACE : cat == 'L' ? HF_LETTER :
			cat == 'N' ? HF_NUMBER : HF_SIGN;

		classes[c / 4] |= (uint8_t)(k << c % 4 * 2);
	}
	return NVLLM_OK;
}
