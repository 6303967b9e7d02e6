package lenient

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestShorterSaysTheSame(t *testing.T) {
	parts := []string{"a", "é", `\u00e9`, `\u0022`, `\u005C`, `\u0000`, `\ud83d\ude00`, `\ud83d`, `\ude00`, `\n`, `\\`, `\"`, `\/`, " ", "😀", `\\u0041`, `\u0041`, `\uFFFD`}
	for range 2000 {
		var text strings.Builder
		text.WriteString(" {\r\n\t")
		for i := range rand.IntN(5) {
			if i > 0 {
				text.WriteString(" , ")
			}
			text.WriteString(`"` + string(rune('a'+i)) + `" : [ "`)
			for range rand.IntN(6) {
				text.WriteString(parts[rand.IntN(len(parts))])
			}
			text.WriteString(`", -1.50e3 , null ]`)
		}
		text.WriteString(" } ")
		got := Shorter(text.String())
		var want, have any
		if err := json.Unmarshal([]byte(text.String()), &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(got, &have); err != nil {
			t.Fatalf("%s became %s: %v", text.String(), got, err)
		}
		if diff := cmp.Diff(want, have); diff != "" || len(got) >= text.Len() {
			t.Fatalf("%s became %s (-want +got):\n%s", text.String(), got, diff)
		}
	}
	for _, text := range []string{``, `"`, `"\`, `"\u00`, `\u0041`, `"a`} { // no JSON: no panic
		Shorter(text)
	}
}
