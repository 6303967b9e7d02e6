package matching

import (
	"fmt"
	"strings"
	"time"

	"github.com/counterfoil/counterfoil/processors/internal/defects"
	"github.com/counterfoil/counterfoil/schemas"
)

// maxShown is how many numbers a message names.
const maxShown = 5

// unmatched says in a sentence or two what was looked for, and what came nearest.
func unmatched(it *schemas.Sale, asked *schemas.CallQuery, candidates []schemas.Candidate, from, until time.Time) string {
	var who []string
	if asked.MHID != "" {
		who = append(who, "with MHID "+defects.Quote(asked.MHID))
	}
	if n := len(asked.Numbers); n > maxShown {
		who = append(who, fmt.Sprintf("from %s or one of %d more numbers", strings.Join(asked.Numbers[:maxShown], ", "), n-maxShown))
	} else if n > 0 {
		who = append(who, "from "+strings.Join(asked.Numbers, " or "))
	}
	if len(who) == 0 {
		return fmt.Sprintf("No call was looked for: mhid is empty, and none of the %d clis is a telephone number.", len(clis(it)))
	}
	day := until.AddDate(0, 0, -1)
	message := fmt.Sprintf("No call %s started between %s and %s (UTC)", strings.Join(who, " or "), from.Format(time.DateOnly), day.Format(time.DateOnly))
	if len(candidates) == 0 {
		return message + ", or at any other time."
	}
	nearest, side := candidates[0], "after that"
	if nearest.RuledOut == schemas.RuledOutBeforeWindow {
		side = "before that"
	}
	return fmt.Sprintf("%s; the nearest is %s of %s, %s.", message, defects.Quote(nearest.CallID), nearest.StartedAt.UTC().Format(time.DateTime), side)
}
