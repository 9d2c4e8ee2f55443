-- Serials are compared without regard to case. LOWER folds ASCII on both engines; what it does to other letters does not
-- matter, the program writes the column anew with each change of the machine.
ALTER TABLE machines ADD COLUMN serial_folded TEXT;
UPDATE machines SET serial_folded = LOWER(serial);
DROP INDEX machines_serial;
CREATE INDEX machines_serial_folded ON machines (serial_folded);
