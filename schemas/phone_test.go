package schemas

import (
	"strings"
	"testing"
)

func TestPhoneKeyOfSpellings(t *testing.T) {
	tests := map[string][]string{
		"447911123456": {
			"+44 (0)7911 123456", "+44(0)7911123456", "07911123456", "447911123456", "00447911123456", "+447911123456", "07911 123456",
			"(07911) 123-456", "0044 (0)7911 123456", "44 (0)7911 123456", "+44-7911-123456", " 07911123456 ", "tel:+44-7911-123456",
			"07911.123456", "07911123456 x12", "+４４７９１１１２３４５６", "7911123456",
		},
		"441632960001": {"01632960001", "01632 960001", "441632960001", "+44 1632 960 001"}, // reserved for drama
		"447700900123": {"447700900123", "07700900123"},                                     // reserved for drama
		"442079460958": {"020 7946 0958", "+442079460958", "442079460958"},
		"44120462083":  {"01204 62083", "4401204 62083", "44120462083"}, // nine national digits
		"441234":       {"1234"},                                        // a local number is possible
		"444412345678": {"+444412345678", "04412345678", "4412345678"},  // 44 is the beginning of a number of a possible length
		"14155552671":  {"+1 415 555 2671", "0014155552671"},
		"390612345678": {"+39 06 12345678", "0039 06 12345678"}, // Italy keeps its zero
		"442079460959": {"020 7946 0959"},
		"": {
			"", " ", "+", "0", "00", "anonymous", "Anonymous", "withheld", "unknown", "private number", "+anonymous", "restricted", "n/a", "-1", "\x00",
			"+266696687", "+7378742833", "+2562533", "+8656696", "+86282452253", "14155552671", "079111234567", "44 7911 1234567", "+999 123456",
			"+44", "000000000000", "०७९११ १२३४५६", strings.Repeat("7", 300), "sip:alice@example.com",
		},
	}
	for want, texts := range tests {
		for _, text := range texts {
			if got := PhoneKey(text); got != want {
				t.Errorf("PhoneKey(%q) is %q, want %q", text, got, want)
			}
		}
	}
}

// FuzzPhoneKey holds the short way against the long one, and a key against itself.
func FuzzPhoneKey(f *testing.F) {
	for _, text := range []string{
		"+44 (0)7911 123456", "07911123456", "447911123456", "00447911123456", "01632960001", "44120462083", "4412345678", "0044(0)1632 960001",
		"anonymous", "", "+86282452253", "+39 06 12345678", "(+44) 7911 123456", "00 44 44 1234 5678", "०७९११", "07911123456;ext=3", "+44 (0)0",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		key := PhoneKey(text)
		if short := britishKey(text); short != "" && short != parsedKey(text) {
			t.Errorf("britishKey(%q) is %q, parsedKey %q", text, short, parsedKey(text))
		}
		if strings.Trim(key, "0123456789") != "" {
			t.Errorf("PhoneKey(%q) is %q: not only digits", text, key)
		}
		british := strings.HasPrefix(key, "44") && !strings.HasPrefix(key, "440") // a zero could be the national prefix
		if british && PhoneKey("+"+key) != key {
			t.Errorf("PhoneKey(%q) is %q, and that of its own E.164 form %q", text, key, PhoneKey("+"+key))
		}
	})
}

func BenchmarkPhoneKey(b *testing.B) {
	for name, text := range map[string]string{"national": "07911123456", "without plus": "447911123456", "foreign": "+14155552671", "withheld": "anonymous"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				PhoneKey(text)
			}
		})
	}
}
