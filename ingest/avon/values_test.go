package avon

import (
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/processors/validation"
	"github.com/counterfoil/counterfoil/schemas"
)

func TestParseDecimal(t *testing.T) {
	const no = ""
	for _, c := range []struct{ s, plain, xml string }{
		{"12", "12", "12"},
		{"-12.50", "-12.5", "-12.5"},
		{"0", "0", "0"},
		{"-0", "0", "0"},
		{"0.0", "0", "0"},
		{" 12 ", "12", "12"},
		{"\t12\n", "12", "12"},
		{".5", "0.5", "0.5"},
		{"-.5", "-0.5", "-0.5"},
		{"5.", "5", "5"},
		{"+5", no, "5"},
		{"007", no, "7"},
		{"00", no, "0"},
		{"1E+3", "1000", no},
		{"1e3", "1000", no},
		{"1.5E-3", "0.0015", no},
		{"1e", no, no},
		{"1e+", no, no},
		{"1e1.5", no, no},
		{"1,234.50", "1234.5", no},
		{"-1,234,567", "-1234567", no},
		{"12,345,678.9", "12345678.9", no},
		{"1234,567", no, no},
		{"1,23", no, no},
		{"1,2345", no, no},
		{",123", no, no},
		{"1,,234", no, no},
		{"0,123", no, no},
		{"1,234,", no, no},
		{"1.234,5", no, no},
		{"12,x", no, no},
		{"1 2", no, no},
		{"--1", no, no},
		{"-", no, no},
		{".", no, no},
		{"", no, no},
		{"1.2.3", no, no},
		{"NaN", no, no},
		{"Infinity", no, no},
		{"0x10", no, no},
		{"٣", no, no},
		{"79228162514264337593543950335", "79228162514264337593543950335", "79228162514264337593543950335"},
		{"-7.9228162514264337593543950335", "-7.9228162514264337593543950335", "-7.9228162514264337593543950335"},
		{"1234567890123456789", "1234567890123456789", "1234567890123456789"},
		{"9,999,999,999,999,999,999.99", "9999999999999999999.99", no},
		{strings.Repeat("1", 201), no, no},
	} {
		for xml, want := range map[bool]string{false: c.plain, true: c.xml} {
			d, ok := parseDecimal(c.s, xml)
			if got := d.String(); ok != (want != no) || ok && got != want {
				t.Errorf("%q (XML %v): %s, %v, want %q", c.s, xml, got, ok, want)
			}
		}
	}
	for _, s := range []string{"1e999999999999999999", "1e-999999999999999999", "0e999999999999999999"} {
		d, ok := parseDecimal(s, false)
		reasons := validation.CheckTransaction(&schemas.Transaction{TaxRate: &d})
		if !ok || (s[0] != '0') != (reasons != nil) {
			t.Errorf("%s: %v, %v", s, ok, reasons)
		}
	}
}

func TestParseTime(t *testing.T) {
	for _, c := range []struct {
		s    string
		want string // RFC 3339; "" where it is refused, "absent"
		xml  bool   // it is read so in XML too
	}{
		{"2015-03-02T10:15:00Z", "2015-03-02T10:15:00Z", true},
		{"2015-03-02T10:15:00", "2015-03-02T10:15:00Z", true},
		{"2015-03-02T10:15:00.1234567", "2015-03-02T10:15:00.1234567Z", true},
		{"2015-03-02T10:15:00.1-05:00", "2015-03-02T15:15:00.1Z", true},
		{"2015-03-02T10:15:00+14:00", "2015-03-01T20:15:00Z", true},
		{" 2015-03-02T10:15:00Z\n", "2015-03-02T10:15:00Z", true},
		{"2015-03-02", "2015-03-02T00:00:00Z", false},
		{"20150302", "2015-03-02T00:00:00Z", false},
		{"2015-03-02 10:15:00Z", "2015-03-02T10:15:00Z", false},
		{"2015-03-02 10:15:00.5Z", "2015-03-02T10:15:00.5Z", false},
		{"/Date(1425291300000)/", "2015-03-02T10:15:00Z", false},
		{"/Date(1425291300123)/", "2015-03-02T10:15:00.123Z", false},
		{"/Date(1425291300000-0500)/", "2015-03-02T10:15:00Z", false},
		{"/Date(1425291300000+0100)/", "2015-03-02T10:15:00Z", false},
		{`\/Date(1425291300000)\/`, "2015-03-02T10:15:00Z", false},
		{`\/Date(1425291300000)\`, "", false},
		{"/Date(-1000)/", "1969-12-31T23:59:59Z", false},
		{"/Date(-62135596800000)/", "absent", false},
		{"/Date(-62135596800000-0000)/", "absent", false},
		{"0001-01-01T00:00:00", "absent", true},
		{"0001-01-01T00:00:00.0000000", "absent", true},
		{"0001-01-01T00:00:00Z", "absent", true},
		{"0001-01-01T00:00:00-05:00", "absent", true},
		{"0001-01-01", "absent", false},
		{"0001-01-01T00:00:01", "0001-01-01T00:00:01Z", true},
		{"2016-02-29T00:00:00", "2016-02-29T00:00:00Z", true},
		{"2015-02-29T00:00:00", "", true},
		{"2015-13-01", "", true},
		{"2015-00-01", "", true},
		{"2015-01-00", "", true},
		{"0000-01-01", "", true},
		{"2015-03-02T24:00:00", "", true},
		{"2015-03-02T10:60:00", "", true},
		{"2015-03-02T10:15:60Z", "", true},
		{"2015-03-02T10:15", "", true},
		{"2015-03-02T10:15Z", "", true},
		{"2015-03-02T10:15:00.", "", true},
		{"2015-03-02T10:15:00.12345678", "", true},
		{"2015-03-02T10:15:00+14:01", "", true},
		{"2015-03-02T10:15:00-0500", "", true},
		{"2015-03-02T10:15:00z", "", true},
		{"2015-03-02 10:15:00", "", true},
		{"2015-03-02 10:15:00+01:00", "", true},
		{"2015-03-02Z", "", true},
		{"02/03/2015", "", true},
		{"2015/03/02", "", true},
		{"2015302", "", true},
		{"/Date()/", "", true},
		{"/Date(-)/", "", true},
		{"/Date(1)", "", true},
		{"/Date(1x)/", "", true},
		{"/Date(1+100)/", "", true},
		{"/Date(1+01000)/", "", true},
		{"/Date(1+0100+0100)/", "", true},
		{"/Date(9999999999999999)/", "", true},
		{"1425291300000", "", true},
		{"now", "", true},
		{"", "", true},
	} {
		for _, xml := range []bool{false, true} {
			want := c.want
			if xml && !c.xml {
				want = ""
			}
			got := ""
			tm, absent, ok := parseTime(c.s, xml)
			switch {
			case ok && absent:
				got = "absent"
			case ok:
				got = tm.Format(time.RFC3339Nano)
			}
			if got != want {
				t.Errorf("%q (XML %v): %q, want %q", c.s, xml, got, want)
			}
		}
	}
}

// FuzzParseDecimal compares with math/big where the text is in both grammars.
func FuzzParseDecimal(f *testing.F) {
	for _, s := range []string{"0", "-12.50", ".5", "5.", "1E+3", "1,234.50", "79228162514264337593543950335", "1e999999999", "0.00000000001", "+5", "007"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		plain, ok := parseDecimal(s, false)
		inXML, okXML := parseDecimal(s, true)
		if ok && okXML && !plain.Equal(inXML) {
			t.Errorf("%q is %s, and %s in XML", s, plain, inXML)
		}
		if !ok && !okXML {
			return
		}
		text := strings.ReplaceAll(strings.TrimSpace(s), ",", "")
		if _, exponent, found := strings.Cut(strings.ToLower(text), "e"); found && len(exponent) > 3 {
			return // math/big would write all the zeros
		}
		want, fine := new(big.Rat).SetString(text)
		if !fine {
			t.Fatalf("%q is no number", s)
		}
		for read, d := range map[bool]schemas.Decimal{ok: plain, okXML: inXML} {
			if read && d.Rat().Cmp(want) != 0 {
				t.Errorf("%q is %s", s, d)
			}
		}
	})
}

// FuzzParseTime compares with the standard library where that reads the text.
func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"2015-03-02T10:15:00Z", "2015-03-02T10:15:00.1234567-05:00", "20150302", "/Date(1425291300000-0500)/", "0001-01-01T00:00:00", "2015-03-02 10:15:00Z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, _, ok := parseTime(s, false)
		inXML, _, okXML := parseTime(s, true)
		if okXML && (!ok || !got.Equal(inXML)) {
			t.Errorf("%q is %s, and %s in XML", s, got, inXML)
		}
		for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", time.DateOnly, "20060102"} {
			if want, err := time.Parse(layout, strings.TrimSpace(s)); ok && err == nil && !want.Equal(got) {
				t.Errorf("%q is %s, want %s", s, got, want)
			}
		}
	})
}
