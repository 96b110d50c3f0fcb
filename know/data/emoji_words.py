"""The words of the captions of emoji: those that stand in three or more of the training captions, in order."""

_TEXT = """
a activity adult affection air airplane alphanum and animal arrow artist arts asian astronaut at av award baby back
backhand bald ball banknote beard biking bird black blond blood blue boat body book bottle bouncing bowing box boy bug
building bunny bus button cane car card cartwheeling cat chart chick child circle claus climbing closed clothing cloud
computer concerned construction cook costume crafts crescent crossed curly diamond dishware disk down dragon drink drum
ears emotion envelope event evil exclamation eye eyes face facepalming facing family fantasy farmer fast feeding file
finger fingers fire firefighter flag flower food four frowning fruit game geographic geometric gesture girl glass globe
golfing green grinning ground hair hammer hand handball hands heart hearts high holding horns horse hotel house
household ice in index input instrument japanese judge juggling keycap kiss kissing kneeling knife large latin leaf left
light lock mage mail mailbox mammal man manual map marine mark math medal medical men money monkey moon motorized
mountain mouth music musical negative neutral new no object oclock of office old on oncoming one open orange other paper
partial parts people person phone place plant playing pointing polo pouting pregnant prepared punctuation quarter
question rain raised raising red religion religious reptile ribbon rice right role rowing running scientist shoe
shrugging sign singer single skeptical sky small smiling sound spiral sport square star stop student superhero surfing
sweat sweet swimming symbol teacher tears thirty time tipping tongue tool transport tree tuxedo two type umbrella unwell
up vampire vegetable veil video walking warning water weather wheel wheelchair white with woman womans women worker
wrestling writing zodiac zombie
"""
WORDS = tuple(_TEXT.split())
