-- What a round of sales costs grows with the number of parts that it looks into. Parts that are a day old are merged into one, whatever its size: one
-- large part and those of the day are left. So each table is written anew once a day, and needs its size again on the disk meanwhile: where that is
-- not there, parts stay as they are.
ALTER TABLE {{local "calls_by_number_state"}} MODIFY SETTING min_age_to_force_merge_seconds = 86400;

ALTER TABLE {{local "calls_by_mhid_state"}} MODIFY SETTING min_age_to_force_merge_seconds = 86400;
